"""`python -m acgd`."""

from acgd.cli import main

if __name__ == "__main__":
    main()
