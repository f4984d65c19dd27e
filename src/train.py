"""`python -m src.train`: see `robustdet.cli.train`."""

from robustdet.cli.train import main

if __name__ == "__main__":
    main()
