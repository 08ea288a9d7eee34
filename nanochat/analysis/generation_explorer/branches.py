"""What if it had said something else: the texts of one prompt as a tree of branches.

A branch is what is fixed at its beginning and how often the dice were changed; what follows is drawn. So a branch can
be written again under other settings, and its fixed part stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from nanochat.analysis.generation_explorer.session import Token
from nanochat.analysis.generation_explorer.settings import ExplorerError, Settings, another_seed

ROOT = "A"
MOST = 200  # branches of one tree


@dataclass(frozen=True)
class Branch:
    """One way on from the prompt."""

    name: str  # A, B, ... Z, AA, ...
    parent: str | None
    at: int  # the step, from 0, at which it leaves its parent
    fixed: tuple[Token, ...] = ()  # what stands before anything is drawn
    shift: int = 0  # how often another draw was asked for: 0 draws with the seed itself
    what: str = ""  # in words, what makes it different

    def settings(self, settings: Settings) -> Settings:
        """The settings with this branch's own dice."""
        return replace(settings, seed=another_seed(settings.seed, self.shift)) if self.shift else settings


@dataclass(frozen=True)
class Tree:
    """All branches of one prompt, in the order in which they were made; the first is what the settings alone draw."""

    branches: tuple[Branch, ...] = field(default_factory=lambda: (Branch(ROOT, None, 0, what="as it is drawn"),))

    def find(self, name: str | None) -> Branch:
        """The branch of this name. Raises ExplorerError, listing those there are."""
        found = next((branch for branch in self.branches if branch.name == name), None)
        if found is None:
            names = ", ".join(branch.name for branch in self.branches)
            raise ExplorerError(f"there is no branch {str(name)[:20]!r}; take one of {names}")
        return found

    def force(
        self, name: str, tokens: Sequence[Token], step: int, ids: Sequence[int], words: str
    ) -> tuple["Tree", Branch]:
        """The branch on which `ids` stand from `step` (from 0) on; one that is there already is not made again.

        tokens: the text of branch `name` as it is now. words: the forced text, to be shown.
        """
        _require_step(step, len(tokens) + 1)
        fixed = (*tokens[:step], *(Token(number, "you") for number in ids))
        return self._with(Branch("", name, step, fixed, self.find(name).shift, f'forced "{words}" at step {step + 1}'))

    def rewind(self, name: str, tokens: Sequence[Token], step: int) -> tuple["Tree", Branch]:
        """A branch that keeps what stands before `step` (from 0) and draws again from there with other dice."""
        _require_step(step, len(tokens) + 1)
        used = [b.shift for b in self.branches if b.parent == name and b.at == step and b.what.startswith("drawn")]
        shift = max([*used, self.find(name).shift]) + 1
        return self._with(Branch("", name, step, tuple(tokens[:step]), shift, f"drawn again from step {step + 1}"))

    def _with(self, made: Branch) -> tuple["Tree", Branch]:
        ids = [token.id for token in made.fixed]
        for branch in self.branches:
            if [token.id for token in branch.fixed] == ids and branch.shift == made.shift:
                return self, branch
        if len(self.branches) >= MOST:
            raise ExplorerError(f"the tree has {MOST} branches, which is the most; begin anew with another prompt")
        made = replace(made, name=_name(len(self.branches)))
        return Tree((*self.branches, made)), made

    def outline(self) -> list[tuple[int, Branch]]:
        """(depth, branch), every branch below its parent."""
        rows: list[tuple[int, Branch]] = []

        def visit(branch: Branch, depth: int) -> None:
            rows.append((depth, branch))
            for child in self.branches:
                if child.parent == branch.name:
                    visit(child, depth + 1)

        visit(self.branches[0], 0)
        return rows


def _require_step(step: int, most: int) -> None:
    if not 0 <= step < most:
        raise ExplorerError(f"there is no step {step + 1}; the text has {most - 1:,}: give 1 to {most:,}")


def _name(number: int) -> str:
    """0 is A, 25 is Z, 26 is AA.

    >>> [_name(number) for number in (0, 25, 26, 52)]
    ['A', 'Z', 'AA', 'BA']
    """
    return (_name(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)
