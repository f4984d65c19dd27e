"""`python -m src.evaluate`: see `robustdet.cli.evaluate`."""

from robustdet.cli.evaluate import main

if __name__ == "__main__":
    main()
