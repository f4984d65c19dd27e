"""`python -m src.predict`: see `robustdet.cli.predict`."""

from robustdet.cli.predict import main

if __name__ == "__main__":
    main()
