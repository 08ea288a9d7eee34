"""Every page of the app in one table: Home's navigation and picture, and the tests that hold for all pages, read it.

A page stands in the navigation as soon as its file is there. Nothing is imported here, so the table costs nothing.
"""

from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Page:
    """One page of the app."""

    section: str
    title: str
    icon: str  # a Material symbol; they come with Streamlit, so none is fetched
    purpose: str  # one line, for Home
    stem: str  # pages/<stem>.py, the same stem in every room

    @property
    def file(self) -> Path:
        """The page's script."""
        return PROJECT / "pages" / f"{self.stem}.py"


PAGES = (
    Page("Start", "Chat", ":material/chat:", "Talk to a model, and see every token it says.", "chat"),
    Page("Data", "Tokenizer playground", ":material/abc:", "See how text falls into tokens.", "tokenizer_playground"),
    Page("Data", "Dataset inspector", ":material/rule:", "Find every bad line of a dataset.", "dataset_inspector"),
    Page(
        "Data",
        "Conversation builder",
        ":material/forum:",
        "Write conversations as a model reads them.",
        "conversation_template_builder",
    ),
    Page("Train", "Train", ":material/model_training:", "Train a model on this machine.", "train"),
    Page("Train", "Training dashboard", ":material/show_chart:", "Follow and compare runs.", "training_dashboard"),
    Page(
        "Train", "Resume helper", ":material/restart_alt:", "Go on with a run that stopped.", "training_resume_helper"
    ),
    Page("Train", "Learning rate finder", ":material/speed:", "Find a learning rate that works.", "lr_finder"),
    Page("Inspect", "Checkpoint browser", ":material/inventory_2:", "List, compare, tidy up.", "checkpoint_browser"),
    Page("Inspect", "Model calculator", ":material/calculate:", "Parameters, memory, time.", "model_calculator"),
    Page("Inspect", "Kernel benchmark", ":material/bolt:", "Time the kernels on this machine.", "kernel_benchmark"),
    Page(
        "Understand",
        "Generation explorer",
        ":material/account_tree:",
        "Watch a model choose its next word.",
        "generation_explorer",
    ),
    Page(
        "Understand",
        "Attention visualizer",
        ":material/visibility:",
        "See where a model looks.",
        "attention_visualizer",
    ),
    Page("Learn", "Guides", ":material/menu_book:", "Nine chapters, from tokens to kernels.", "guides"),
)


def available() -> list[Page]:
    """The pages whose file is there, in the table's order."""
    return [page for page in PAGES if page.file.is_file()]


def find(stem: str) -> Page | None:
    """The page of this stem, if its file is there."""
    return next((page for page in available() if page.stem == stem), None)
