"""reinvert studio: edit in the browser. `reinvert studio` starts it; it needs the extra `reinvert[studio]`.

What a person does is in `session` and the modules below it, which know nothing of the page and are tested without one;
`page` lays it out with Gradio, and `server` serves it.
"""
