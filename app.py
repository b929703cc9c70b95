"""The review desk: `make app`, `moderation review` or `python app.py`, then open the address that it prints."""

from desk.cli import main

if __name__ == "__main__":
    main()
