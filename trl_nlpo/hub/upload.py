"""A trainer's repository on the Hub, and uploads to it.

What is uploaded is put together in a folder of its own first, of links that cost no room: the upload may run beside
the training, which goes on writing and removes old checkpoints, and an adapter names its base model there by the
name that the base has on the Hub. That folder stays where an upload fails, so that it can be finished by hand.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from ..errors import NotPushedError, UserError, one_line
from ..secrets import note_secrets, redacted
from .card import CARD_NAME, base_card
from .loading import ADAPTER_CONFIG_FILE, loading_of


logger = logging.getLogger(__name__)

STAGE = "_upload"
"""Folder in `output_dir` for what is uploaded. Uploads leave out names with this first letter."""

LEFT_OUT = ("_*", "checkpoint-*", ".*")
"""Names at the top of `output_dir` that are not uploaded."""

NOT_THE_MODEL = (
    "optimizer*", "scheduler.pt", "scaler.pt", "rng_state*", "trainer_state.json", "nlpo_state.json",
    "manifest.json", "masking_policy.safetensors", "*.distcp", "global_step*", "latest", "zero_to_fp32.py",
    "pytorch_model_fsdp*",
)  # fmt: skip
"""Of a checkpoint, what only resuming needs."""

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further try of what may go well the next time."""

_REASONS = {
    401: "it does not know the token (401): log in with `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there (403): use one with write access, or another hub_model_id",
    404: "there is no such repository or owner (404)",
    429: "it takes no more requests for now (429)",
}


class HubRefusal(Exception):  # noqa: N818
    """The Hub did not do what it was asked for; the message is the reason, as a part of a sentence."""


class HubUpload:
    """Where a trainer's model goes on the Hub.

    Args:
        args: `hub_model_id`, `hub_token`, `hub_private_repo`, `hub_revision` and `output_dir` of the trainer's.

    Attributes:
        repo_id (`str`, *optional*): complete name of the repository, once it is there.
        base (`Path`, *optional*): the folder of the adapter's base model, where that was trained by the same run: it
            is pushed beside the adapter, into `<repository>-base`.
        left_out (`tuple[str, ...]`): patterns of names at the top of `output_dir` that are not uploaded.
        waits (`Sequence[float]`): seconds to wait before each further try, when the Hub has an error of its own or
            does not answer; empty while something else would have to wait too. The last push of all waits [`WAITS`].
        report (`Callable`): is told, in a line, of each failed try that is followed by another.
    """

    def __init__(self, args: Any):
        self.args = args
        self.repo_id: str | None = None
        self.base: Path | None = None
        self.left_out: tuple[str, ...] = LEFT_OUT
        self.waits: Sequence[float] = ()
        self.report: Callable[[str], None] = logger.warning
        self._api = HfApi()
        self._running: list[tuple[Any, Path]] = []
        self._num_stages = 0

    @property
    def name(self) -> str:
        """The repository's name, as far as it is known."""
        wanted = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        return self.repo_id or str(wanted)

    @property
    def base_name(self) -> str:
        """The name of the repository with the adapter's base model."""
        return f"{self.name}-base"

    @property
    def url(self) -> str:
        """Where the repository is shown, at the Hub that is pushed to (`HF_ENDPOINT`)."""
        return f"{self._api.endpoint}/{self.name}"

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Wait and try again for a while, see `waits`."""
        own, self.waits = self.waits, WAITS
        try:
            yield
        finally:
            self.waits = own

    def create(self, token: str | None = None, private: bool | None = None) -> str:
        """Make the repository unless it is there; returns its complete name.

        Raises:
            HubRefusal: the Hub does not give it.
        """
        with_token = self._token(token)
        created = self._asked(
            lambda: self._api.create_repo(self.name, token=with_token, private=self._private(private), exist_ok=True)
        )
        self.repo_id = str(created.repo_id)
        return self.repo_id

    def problem(self, token: str | None = None, private: bool | None = None) -> str | None:
        """Make the repository; where the Hub does not give it, the line that says so."""
        try:
            self.create(token, private)
        except HubRefusal as error:
            return (
                f"The Hub cannot take the model for now: {error}. The run goes on, and the push is tried again. "
                "Whatever the Hub says then, the model will be whole in output_dir."
            )
        return None

    def push(
        self,
        message: str | None,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        in_background: bool = False,
    ) -> Any:
        """Upload `output_dir`.

        Returns:
            What `huggingface_hub` says of the commit, or a future of it.

        Raises:
            NotPushedError: the Hub does not take it; says how to do it by hand.
        """
        stage = self._staged(Path(self.args.output_dir), self.left_out)
        try:
            with nullcontext() if in_background else self.patient():
                if self.repo_id is None:
                    self.create(token, private)
                options = {"token": self._token(token), "revision": self._branch(revision, token)}
                if self.base is not None:
                    _name_base(stage, self.base_name, self._push_base(options["token"], private))
                found = self._uploaded(stage, message, in_background, **options)
        except HubRefusal as error:
            raise NotPushedError(
                f"The model was not pushed to the Hub: {error}. It is whole in {self.args.output_dir}; push it by "
                f"hand with: {self.by_hand(stage)}"
            ) from error
        if not in_background:
            shutil.rmtree(stage.parent)
        return found

    def push_checkpoint(self, checkpoint: Path, message: str, card: Path, path_in_repo: str | None) -> None:
        """Upload the model of a checkpoint beside the training.

        Args:
            checkpoint (`Path`): a complete one.
            message (`str`): of the commit.
            card (`Path`): the model card.
            path_in_repo (`str`, *optional*): where the complete checkpoint is uploaded too, to be resumed from.

        Raises:
            HubRefusal: the Hub does not take it.
        """
        if self.repo_id is None:
            self.create()
        branch, token = self._branch(None, None), self._token(None)
        if self.base is not None:
            self._push_base(token, None)
        stage = self._staged(checkpoint, NOT_THE_MODEL, card)
        self._uploaded(stage, message, True, token=token, revision=branch)
        if path_in_repo is not None:
            stage = self._staged(checkpoint, ())
            self._uploaded(
                stage, f"{message}, checkpoint", True, token=token, revision=branch, path_in_repo=path_in_repo
            )

    def _uploaded(self, stage: Path, message: str | None, in_background: bool, **options: Any) -> Any:
        found = self._asked(
            lambda: self._api.upload_folder(
                repo_id=self.name,
                folder_path=str(stage),
                commit_message=message,
                run_as_future=in_background,  # type: ignore[call-overload]
                **options,
            )
        )
        if in_background:
            self._running.append((found, stage))
        return found

    @property
    def is_running(self) -> bool:
        """Whether an upload in the background is not finished."""
        return any(not job.done() for job, _ in self._running)

    def finished(self, wait: bool = False) -> Iterator[str]:
        """Forget uploads that are finished, or wait for all of them; a line for each that failed."""
        running, self._running = self._running, []
        for job, stage in running:
            if not wait and not job.done():
                self._running.append((job, stage))
                continue
            try:
                job.result()
            except Exception as error:
                yield f"A push of {self.name} failed: {reason(error)}. The next one is tried all the same."
            shutil.rmtree(stage, ignore_errors=True)

    def by_hand(self, stage: Path) -> str:
        """Commands that push what was put together, and the base model where there is one."""
        words = ["hf", "upload", self.name, str(stage.resolve()), "."]
        words += ["--private"] if self._private(None) else []
        words += ["--revision", self.args.hub_revision] if self.args.hub_revision else []
        commands = [shlex.join(words)]
        if self.base is not None:
            commands.insert(0, shlex.join(["hf", "upload", self.base_name, str(self.base.resolve()), "."]))
        return " && ".join(commands)

    def _push_base(self, token: str | None, private: bool | None) -> str | None:
        """Upload the adapter's base model, as private as the adapter; returns the commit that holds it."""
        base = self.base
        assert base is not None
        if private is None and self._private(None) is None:
            private = bool(self._asked(lambda: self._api.model_info(self.name, token=token).private))
        self._asked(
            lambda: self._api.create_repo(self.base_name, token=token, private=self._private(private), exist_ok=True)
        )
        # First, as the adapter names the commit with the model.
        self._asked(
            lambda: self._api.upload_file(
                path_or_fileobj=base_card(self.name, loading_of(base, self.base_name)).encode(),
                path_in_repo=CARD_NAME,
                repo_id=self.base_name,
                commit_message="Model card",
                token=token,
            )
        )
        commit = self._asked(
            lambda: self._api.upload_folder(
                repo_id=self.base_name,
                folder_path=str(base),
                commit_message=f"Base model of the adapter {self.name}",
                token=token,
                ignore_patterns=[*LEFT_OUT, "training_args.bin", CARD_NAME],
            )
        )
        return getattr(commit, "oid", None)

    def _branch(self, revision: str | None, token: str | None) -> str | None:
        """The branch to push to, made where it is not there."""
        branch = revision or self.args.hub_revision
        if branch is not None:
            self._asked(
                lambda: self._api.create_branch(self.name, branch=branch, token=self._token(token), exist_ok=True)
            )
        return branch

    def _token(self, token: str | None) -> str | None:
        note_secrets(token, "token")
        return token if token is not None else self.args.hub_token

    def _private(self, private: bool | None) -> bool | None:
        return private if private is not None else self.args.hub_private_repo

    def _staged(self, source: Path, left_out: tuple[str, ...], card: Path | None = None) -> Path:
        """A folder with links to what is in `source`; an adapter in it names its base as the Hub knows it."""
        running = {stage for _, stage in self._running}
        root = Path(self.args.output_dir) / STAGE
        stage = next(path for number in range(len(running) + 1) if (path := root / str(number)) not in running)
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        for path in sorted(source.iterdir()):
            if not any(fnmatch(path.name, pattern) for pattern in left_out):
                _link(path, stage / path.name)
        if card is not None and card.is_file():
            (stage / card.name).unlink(missing_ok=True)
            shutil.copyfile(card, stage / card.name)
        if self.base is not None:
            _name_base(stage, self.base_name)
        return stage

    def _asked(self, ask: Callable[[], Any]) -> Any:
        # Whatever happens on the way to the Hub, the model is whole on this machine.
        answer, error = _tried(ask)
        for wait in self.waits:
            if error is None or not _may_pass(error):
                break
            self.report(f"{self.name}: {reason(error)}. Trying again in {wait:g} s.")
            time.sleep(wait)
            answer, error = _tried(ask)
        if error is not None:
            raise HubRefusal(reason(error)) from error
        return answer


def _tried(ask: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return ask(), None
    except Exception as error:
        return None, error


def check_repository(args: Any) -> None:
    """Refuse a name that no repository can have, before anything is trained.

    Raises:
        UserError: says where the name comes from.
    """
    if not args.push_to_hub:
        return
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        origin = (
            "hub_model_id" if args.hub_model_id else "without hub_model_id, the name of output_dir is taken, which"
        )
        raise UserError(
            f"push_to_hub: {origin} is {name!r}, and a repository on the Hub cannot be called so: write owner/name "
            f"({one_line(error, 200)})."
        ) from None


def reason(error: BaseException) -> str:
    """Why the Hub did not do something, as a part of a sentence."""
    code = _status(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so that it is not asked"
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token: log in with `hf auth login`, or set HF_TOKEN"
    if code in _REASONS:
        return _REASONS[code]
    if code is not None and code >= 500:
        return f"it has an error of its own ({code})"
    return f"{type(error).__name__}: {redacted(one_line(error, 300)).rstrip('.')}"


def _status(error: BaseException) -> int | None:
    """What the Hub answered; None where it did not."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _may_pass(error: BaseException) -> bool:
    """Whether the same may go well a little later: errors of the Hub's own, too many requests, no answer."""
    if isinstance(error, (OfflineModeIsEnabled, LocalTokenNotFoundError)):
        return False
    code = _status(error)
    if code is not None:
        return code in (408, 429) or code >= 500
    # Which of them asks the Hub depends on the version of huggingface_hub.
    of_client = type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "requests", "urllib3")
    return of_client or isinstance(error, (ConnectionError, TimeoutError))


def _name_base(stage: Path, name: str, commit: str | None = None) -> None:
    """Let the adapters in a folder (policy and value function) name their base model as the Hub knows it."""
    for path in (*stage.glob(ADAPTER_CONFIG_FILE), *stage.glob(f"*/{ADAPTER_CONFIG_FILE}")):
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {"base_model_name_or_path": name, "revision": commit}
        # The file is a link to the one of the run, which stays as it is.
        path.unlink()
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _link(source: Path, target: Path) -> None:
    """The same file, or folder of files, at another place: a copy only where the disk has no links."""
    if source.is_dir():
        target.mkdir()
        for path in source.iterdir():
            _link(path, target / path.name)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
