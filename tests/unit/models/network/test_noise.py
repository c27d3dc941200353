"""What libraries advise without need stays out of the log; what else they say does not."""

import logging

import pytest

import scanfleet.models  # noqa: F401 - sets the filters


@pytest.mark.parametrize(
    ("logger", "words"),
    [
        (
            "bitsandbytes.backends.cpu.ops",
            "Failed to load CPU gemm_4bit_forward from kernels-community: No module named 'kernels'. Please make sure",
        ),
        (
            "transformers.utils.import_utils",
            "`XImageProcessor` requires torchvision (not installed); falling back to `X`",
        ),
    ],
)
def test_one_line_of_advice_is_left_out(logger: str, words: str) -> None:
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    library = logging.getLogger(logger)
    library.addHandler(handler)
    try:
        library.warning("%s", words)
        library.warning("cannot read the weights")
    finally:
        library.removeHandler(handler)
    assert heard == ["cannot read the weights"]
