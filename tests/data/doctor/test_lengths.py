"""The table of contexts and the account of rows, against the encoder itself at every length."""

from collections import Counter

import pytest

from tests.bytes_tokenizer import bytes_tokenizer
from tests.data.doctor.sick_rows import answered, but, labelled, of_folder, only, read_by, sentence, whole
from tests.data.tokenizers_for_tests import bytes_without_begin, pieces_with_begin
from tunewise.data.doctor import examine
from tunewise.data.doctor.lengths import BATCH, at, lengths_of
from tunewise.data.encode import MASKED, encode_all
from tunewise.data.written import WRITTEN, written_each
from tunewise.errors import UserError

FAMILIES = ("tokens", "lengths", "rows")


def turns(k):
    """A conversation of two turns, the first of which is trained too."""
    texts = [sentence(9 * k + j, 3 + (5 * k + j) % 9) for j in range(4)]
    roles = ("user", "assistant", "user", "assistant")
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


CHATS = [{"messages": turns(k)} for k in range(30)]
LONG = [{"prompt": sentence(k, 1 + k % 17), "completion": sentence(k + 900, 1 + k % 7)} for k in range(40)]


def by_the_encoder(encode, examples, tokenizer, length):
    """(cut, rejected, tokens kept, labels kept) as the encoder's own ledger has it."""
    try:
        rows, ledger = encode(examples, tokenizer, length)
    except UserError:
        return 0, len(examples), 0, 0
    labels = sum(label != MASKED for row in rows for label in row.labels)
    return len(ledger.truncated), len(ledger.rejected), sum(len(row.ids) for row in rows), labels


@pytest.mark.parametrize("tokenizer", [bytes_without_begin, pieces_with_begin, bytes_tokenizer])
@pytest.mark.parametrize(
    ("rows", "way", "encode"),
    [
        (LONG, "one sequence", encode_all),
        (CHATS, "one sequence", encode_all),
        (LONG, "read and written", whole(written_each, WRITTEN)),
        (CHATS, "read and written", whole(written_each, WRITTEN)),
    ],
    ids=["answers", "chats", "written", "chats written"],
)
def test_the_table_is_what_the_encoder_does(rows, way, encode, tokenizer, tmp_path):
    own = tokenizer()
    found = read_by(of_folder(tmp_path / "rows", rows, rows[:9], rows[9:]), own, max_length=60, way=way, encode=encode)
    examples = found.reading.parts["train"].examples  # of a conversation that is written, each answer
    complete = by_the_encoder(encode, examples, own, 10_000)
    n_cut, n_rejected = 0, 0
    for length in range(2, 200, 7):
        cut, rejected, tokens, labels = by_the_encoder(encode, examples, own, length)
        told = at(found.reading, length)
        assert (told.cut, told.rejected, told.tokens) == (cut, rejected, tokens), length
        assert told.trained_share == pytest.approx(labels / complete[3]), length
        n_cut, n_rejected = n_cut + cut, n_rejected + rejected
    assert min(n_cut, n_rejected) > 30


def test_padding_is_that_of_batches_in_their_order(tmp_path):
    found = read_by(of_folder(tmp_path / "rows", LONG), bytes_tokenizer(), max_length=400)
    sizes = [len(row.ids) for row in found.reading.parts["train"].encoded]
    padded = sum(max(sizes[k : k + BATCH]) * len(sizes[k : k + BATCH]) for k in range(0, len(sizes), BATCH))
    assert at(found.reading, 10_000).padded_tokens == padded > sum(sizes)


def test_the_contexts_told_are_powers_of_two_up_to_the_longest_row(tmp_path):
    rows = but(labelled(), text={5: sentence(5, 300)})
    found = lengths_of(read_by(of_folder(tmp_path / "rows", rows), bytes_tokenizer(), 100, context=700).reading)
    longest = found.longest
    assert 1_024 < longest < 2_048
    assert [each.context for each in found.at] == [100, 256, 512, 700, 1_024, 2_048]
    assert (found.at[-1].cut, found.at[-1].trained_share) == (0, 1.0)
    assert found.median <= found.p95 <= found.p99 <= longest


@pytest.mark.parametrize("max_length", [20, 40, 90, 400])
def test_every_row_is_accounted_for(max_length, tmp_path):
    rows = but(LONG, completion={3: "", 9: "  "})
    found = examine(
        read_by(of_folder(tmp_path / "rows", rows, LONG[:5], LONG[5:9]), bytes_tokenizer(), max_length), FAMILIES
    )
    account = found.account
    assert account.rows == 49
    assert account.proved
    assert account.rows == sum(account.used.values()) + len(account.rejected)
    lines = Counter((row.part, row.line) for row in (*account.rejected, *account.cut))
    assert lines[("", 4)] == lines[("", 10)] == 1
    assert max(lines.values()) == 1
    assert all(row.kept <= max_length < row.tokens for row in account.cut)
    assert (len(account.cut) > 0) == (max_length < 400)
    assert account.told()["proved"] is True


def test_a_cut_row_says_how_much_is_lost_and_whether_it_was_trained(tmp_path):
    found = read_by(of_folder(tmp_path / "rows", CHATS, CHATS[:5], CHATS[5:9]), bytes_tokenizer(), max_length=120)
    told = examine(found, FAMILIES)
    cut = [row for row in told.account.cut if row.part == "train"]
    hit = [row for row in cut if row.trained_lost]
    assert len(cut) > len(hit) > 0
    assert told.lengths.at[0].answers_hit == len(hit) + told.lengths.at[0].rejected
    finding = only(told, "truncated-rows")
    assert finding.severity == "warning"
    assert f"{len(hit)} of them lose what was to be trained" in finding.message
    assert finding.remedy == f"train.max_length={max(row.tokens for row in cut)} keeps all"


def test_rows_beyond_the_base_are_told(tmp_path):
    rows = of_folder(
        tmp_path / "rows",
        but(LONG, prompt={0: sentence(0, 200)}),
        LONG[:5],
        but(LONG[:5], prompt={1: sentence(1, 200)}),
    )
    found = examine(read_by(rows, bytes_tokenizer(), 300, context=300), FAMILIES)
    assert "base reads 300 tokens, and the longest row has" in only(found, "truncated-rows").remedy
    assert only(found, "truncated-rows").severity == "note"
    assert only(found, "held-out-too-long").message.startswith("1 row (10 %) of dev and test")


def test_rejected_rows_are_grouped_by_reason(tmp_path):
    rows = but(answered(), completion={3: "", 4: sentence(4, 99), 5: sentence(5, 90)})
    found = examine(read_by(of_folder(tmp_path / "rows", rows), bytes_tokenizer(), 200), FAMILIES)
    assert [len(alike) for alike in found.account.by_reason.values()] == [2, 1]
    finding = only(found, "rejected-rows")
    assert (finding.severity, finding.n_rows) == ("warning", 3)
    assert [row.line for row in finding.rows] == [5, 4]
