"""Word error rate with Whisper's English normaliser, and the statistics of the tables."""

import statistics

import jiwer
from whisper_normalizer.english import EnglishTextNormalizer

_normal = EnglishTextNormalizer()


def word_errors(reference: str, heard: str) -> tuple[int, int]:
    """Errors (substitutions, deletions, insertions) and words of the reference."""
    reference, heard = _normal(reference), _normal(heard)
    if not reference:
        return len(heard.split()), 0
    if not heard:
        return len(reference.split()), len(reference.split())
    measured = jiwer.process_words(reference, heard)
    return measured.substitutions + measured.deletions + measured.insertions, len(reference.split())


def wer(pairs: list[tuple[str, str]]) -> float:
    """Percent over (reference, heard) pairs: all errors by all words."""
    counts = [word_errors(reference, heard) for reference, heard in pairs]
    return 100 * sum(errors for errors, _ in counts) / max(1, sum(words for _, words in counts))


def percentile(values: list[float], share: float) -> float:
    """Nearest-rank percentile; `share` from 0 to 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


median = statistics.median
