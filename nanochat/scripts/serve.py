"""Serve a trained model to other programs, as OpenAI's chat API on this machine alone.

    nanochat serve                                             # the largest fine-tuned model found, on port 8000
    nanochat serve -i sft -g d4 --port 9000

    from openai import OpenAI
    client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.chat.completions.create(model="sft/d4", messages=[{"role": "user", "content": "Who are you?"}])

Temperature, top-k, top-p and the longest reply stand here for requests that leave them open. It listens on loopback and
asks for no password.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat.errors import exit_status
from nanochat.model_queue import AT_ONCE, WAITING
from nanochat.paths import STAGE_FOLDERS, roots

if TYPE_CHECKING:
    from nanochat.serving import Served

ADDRESS = "127.0.0.1"
GRACE = 5  # seconds that replies get when the server is told to end


class ServeError(ValueError):
    """A server that cannot start: one sentence."""


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(
        prog="nanochat serve",
        description="Serve a trained model as OpenAI's chat API (/v1/chat/completions, /v1/models, /health) on "
        "127.0.0.1. Ctrl-C ends it.",
    )
    p.add_argument("-i", "--source", default="sft", choices=list(STAGE_FOLDERS), help="training stage to load (sft)")
    p.add_argument("-g", "--model-tag", help="run, such as d20; needed where two are equally deep (the deepest)")
    p.add_argument("-s", "--step", type=int, help="step to load (the last complete one)")
    p.add_argument("--port", type=int, default=8000, help="port on 127.0.0.1; 0 takes a free one (8000)")
    p.add_argument("-t", "--temperature", type=float, default=0.6, help="for requests that name none (0.6)")
    p.add_argument("-k", "--top-k", type=int, default=50, help="for requests that name none; 0 for all (50)")
    p.add_argument("--top-p", type=float, help="for requests that name none (all)")
    p.add_argument("--min-p", type=float, help="for requests that name none (none)")
    p.add_argument("--max-tokens", type=int, default=256, help="longest reply, for requests that name none (256)")
    p.add_argument("--at-once", type=int, default=AT_ONCE, help=f"replies written at the same time ({AT_ONCE})")
    p.add_argument("--waiting", type=int, default=WAITING, help=f"requests that may wait; more are refused ({WAITING})")
    p.add_argument("--device-type", default="auto", help="auto, cuda, mps or cpu (auto)")
    p.add_argument("--base-dir", type=Path, help="nanochat base dir to look in (the workspace, then nanochat's own)")
    p.add_argument("--tokenizer-dir", type=Path, help="the model's tokenizer, where it does not lie in its base dir")
    p.add_argument("--python", action="store_true", help="let the model run Python, contained")
    p.add_argument(
        "--trust-model", action="store_true", help="with --python: run it even where nothing contains it, at your risk"
    )
    p.add_argument("--anyway", action="store_true", help="open a model that needs more memory than is free")
    return p


def main(argv: list[str] | None = None) -> int:
    """Load a model and serve it until Ctrl-C."""
    args = parser().parse_args(argv)
    if not 0 <= args.port < 2**16:
        raise ServeError(f"port {args.port} does not exist; take 1024 to {2**16 - 1}, or 0 for a free one")
    if args.at_once < 1 or args.waiting < 0:
        raise ServeError(f"--at-once {args.at_once} --waiting {args.waiting}: at least one must write, none need wait")
    listening = _listen(args.port)
    with listening:
        import uvicorn

        from nanochat.serving import application

        served = _open(args)
        listening.listen()  # whoever reads the next line may connect at once
        address = f"http://{ADDRESS}:{listening.getsockname()[1]}"
        print(f"{served.names[0]} at {address}/v1 (Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(
            application(served),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            timeout_graceful_shutdown=GRACE,
        )
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listen(port: int) -> socket.socket:
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((ADDRESS, port))
    except OSError as error:
        listening.close()
        raise ServeError(
            f"port {port} cannot be used ({error.strerror}); something else listens there: take another with --port"
        ) from None
    return listening


def _open(args: argparse.Namespace) -> Served:
    from nanochat import paths
    from nanochat.analysis.chat import memory
    from nanochat.checkpoint_manager import load_model
    from nanochat.checkpoint_runs import choose_run, existing_step, find_last_step
    from nanochat.device import choose_device
    from nanochat.model_queue import ModelQueue
    from nanochat.reply import Sampling, shared_engine
    from nanochat.serving import Served

    device = choose_device(args.device_type or "auto")
    places = [paths.expand(args.base_dir)] if args.base_dir else [root.path for root in roots()]
    run, reason = choose_run(places, args.source, args.model_tag)
    step = find_last_step(run.folder) if args.step is None else existing_step(run.folder, args.step)
    needed = memory(run.folder, step, device.device)
    if not needed.fits and not args.anyway:
        raise ServeError(
            f"{run.stage}/{run.tag} at step {step}: {needed.sentence}; close something, take a smaller run with -g, or "
            "add --anyway"
        )
    loaded = load_model(run.folder, step, device.device, args.tokenizer_dir)
    queue = ModelQueue(args.at_once, args.waiting)
    engine = shared_engine(loaded, queue, python=args.python, trust=args.trust_model)
    for line in (reason, *loaded.notes, device.describe(), *engine.notes):
        print(line, file=sys.stderr)
    name = f"{run.stage}/{run.tag}"
    defaults = Sampling(args.temperature, args.top_k, args.top_p, args.min_p, args.max_tokens)
    names = (f"{name}@{step}", name, run.tag)
    return Served(names, engine, queue, defaults, run.stage == "base", int(time.time()))


if __name__ == "__main__":
    sys.exit(exit_status("serve", main))
