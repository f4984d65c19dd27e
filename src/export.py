"""`python -m src.export`: see `robustdet.cli.export`."""

from robustdet.cli.export import main

if __name__ == "__main__":
    main()
