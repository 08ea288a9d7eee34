"""The built-in corpus: small stories from a grammar, so that what a model writes can be judged exactly.

    from itertools import islice
    from nanochat.stories import generate, judge

    for text in islice(generate(seed=0), 3):
        print(text, judge(text).bits)

Why a grammar and not real text: its entropy is known, so a loss chart can show the line below which no model can go,
and every sample can be read back: is it a story, and do its names, pronouns, objects and sums agree?
"""

from nanochat.stories.grammar import StoryError
from nanochat.stories.judging import Verdict, floor_bpb, judge, questions
from nanochat.stories.writing import generate, story

__all__ = ["StoryError", "Verdict", "floor_bpb", "generate", "judge", "questions", "story"]
