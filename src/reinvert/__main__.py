"""`python -m reinvert` is the command line."""

from reinvert.cli import start

if __name__ == "__main__":
    start()
