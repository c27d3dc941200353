"""The vision-language model as a library."""

from __future__ import annotations

import logging

# What libraries advise and nobody here needs, by logger. Set before any of them is imported: they advise at import.
# Everything else that they log stays.
_ADVICE = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward from kernels-community: No module named",
    "transformers.utils.import_utils": "requires torchvision (not installed); falling back to",
}


class _Advice(logging.Filter):
    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return self._words not in record.getMessage()


for _logger, _words in _ADVICE.items():
    logging.getLogger(_logger).addFilter(_Advice(_words))
