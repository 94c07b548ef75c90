"""The networks that metrics look through: written in a few lines of torch, loaded from safetensors only."""
