"""Pipeline stages as commands, with nanochat's own names: `python -m nanochat.scripts.chat_cli --help`."""
