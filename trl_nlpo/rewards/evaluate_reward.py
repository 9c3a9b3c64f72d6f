"""Any module of Hugging Face's `evaluate` as a reward function."""

from __future__ import annotations

from typing import Any

from ..errors import UserError, one_line
from ..metrics.base import require_column
from ..metrics.texts import completion_text


class EvaluateReward:
    """A module of `evaluate`, asked about one completion at a time.

    Args:
        module (`str`): a name on the Hub, or the path of a local module.
        key (`str`, *optional*): which of its numbers is the reward; needed when it returns several.
        scale (`float`): the number is multiplied by it; 0.01 brings percentages to [0, 1], -1 turns an error around.
        column (`str`, *optional*): the column with the references; None for a module that takes none.
        options: keywords of the module's `compute`.

    Raises:
        UserError: the package or the module is not there.
    """

    def __init__(
        self,
        module: str,
        key: str | None = None,
        scale: float = 1.0,
        column: str | None = "references",
        **options: Any,
    ):
        try:
            import evaluate
        except ImportError:
            raise UserError(
                f"reward 'evaluate:{module}' needs the package evaluate: install it with "
                '`pip install "trl-nlpo[metrics]"`.'
            ) from None
        try:
            self.module = evaluate.load(module)
        except Exception as error:
            # A missing name, no network, a package that the module needs: all are about the name.
            raise UserError(f"reward 'evaluate:{module}' cannot be loaded: {one_line(error, 300)}") from error
        self.key, self.scale, self.column, self.options = key, scale, column, options
        self.__name__ = module.rstrip("/").split("/")[-1].removesuffix(".py")

    def __call__(self, completions: list[Any], **columns: Any) -> list[float | None]:
        texts = [completion_text(completion) for completion in completions]
        if self.column is None:
            return [self._number(self.module.compute(predictions=[text], **self.options)) for text in texts]
        rows = require_column(columns, self.column, f"reward {self.__name__!r}")
        return [
            self._number(self.module.compute(predictions=[text], references=[row], **self.options))
            for text, row in zip(texts, rows, strict=True)
        ]

    def _number(self, result: dict[str, Any]) -> float:
        key = self.key or (next(iter(result)) if len(result) == 1 else None)
        if key is None or key not in result:
            raise UserError(
                f"reward 'evaluate:{self.__name__}' gives {', '.join(result)}: choose one with the option key."
            )
        value = result[key]
        # Some modules return a list with a number per text.
        return self.scale * float(value[0] if isinstance(value, list) else value)
