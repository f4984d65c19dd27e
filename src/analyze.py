"""`python -m src.analyze`: see `robustdet.cli.analyze`."""

from robustdet.cli.analyze import main

if __name__ == "__main__":
    main()
