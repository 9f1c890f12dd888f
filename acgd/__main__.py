"""`python -m acgd`, and the command itself: signals are heard before anything else is loaded."""

from acgd.commands import signals


def main() -> None:
    signals.at_once()
    from acgd.commands.main import main

    main()


if __name__ == "__main__":
    main()
