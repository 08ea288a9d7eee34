"""nanochat lab: a complete nanochat core and the tools that open it up. `python -m nanochat` lists them."""

__version__ = "0.1.0"
