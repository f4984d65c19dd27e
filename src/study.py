"""`python -m src.study`: see `robustdet.cli.study`."""

from robustdet.cli.study import main

if __name__ == "__main__":
    main()
