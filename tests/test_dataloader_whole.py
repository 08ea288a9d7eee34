"""Documents that must not be cut: alone in a row to be scored, several in a row to be learned from."""

import pytest

from nanochat.dataloader import DataLoader, DataLoaderError, whole_documents
from nanochat.dataset_split import Texts
from nanochat.packing import NO_LOSS
from tests.dataset_support import BOS, Words


def test_whole_documents_stand_alone():
    batches = list(whole_documents(["1 2 3", "4", "", "5 6 7 8"], Words(), 3, 4))
    assert batches[0].inputs.tolist() == [[0, 1, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    no = NO_LOSS
    assert batches[0].targets.tolist() == [[1, 2, 3, no], [4, no, no, no], [no] * 4]
    assert batches[1].inputs.tolist() == [[0, 5, 6, 7]]
    assert batches[1].targets.tolist() == [[5, 6, 7, 8]]
    with pytest.raises(DataLoaderError, match="document 1 has 5 tokens"):
        list(whole_documents(["1", "1 2 3 4 5"], Words(), 3, 4))


def test_a_row_without_room_for_another_whole_document_ends_without_loss():
    """Seven words and bos are eight tokens; two of them fit into a row of 21, and five places stay empty."""
    split = Texts(["1 2 3 4 5 6 7"] * 50, "whole")
    with DataLoader(split, Words(), 2, 20, ahead=False) as loader:
        inputs, targets = loader.next_batch()
    document = [BOS, 1, 2, 3, 4, 5, 6, 7]
    assert inputs.tolist() == [document * 2 + [BOS] * 4] * 2
    assert targets.tolist() == [[*(document * 2)[1:], BOS] + [NO_LOSS] * 4] * 2  # that the second one ends is learned
