"""Run a program from standard input without a sandbox, for a user who said that the model is trusted.

`python -I trusted.py VERDICT_FILE MEMORY_BYTES`: the first line of input is a token, the rest is the program. The token
goes into the file if the program ran to its end. Where the system has resource limits, memory is limited.
"""

import io
import sys
from pathlib import Path


def main() -> None:
    """Read, limit, run, report."""
    verdict, memory_bytes = Path(sys.argv[1]), int(sys.argv[2])
    token, _, program = sys.stdin.buffer.read().partition(b"\n")
    sys.stdin = io.StringIO("")
    if sys.platform == "linux":  # elsewhere the address space of a plain Python is already past any useful limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.argv = ["-"]
    exec(compile(program, "<stdin>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    sys.stdout.flush()
    verdict.write_bytes(token)


if __name__ == "__main__":
    main()
