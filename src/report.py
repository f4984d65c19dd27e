"""`python -m src.report`: see `robustdet.cli.report`."""

from robustdet.cli.report import main

if __name__ == "__main__":
    main()
