"""`python -m pyrogen` is `pyrogen`."""

from pyrogen.cli import main

if __name__ == "__main__":
    main()
