"""Where a model comes from: one function from `spec.model.source` to a folder on this machine.

Limits: s3:// is not read yet; a pvc:// model is where the operator mounts its claim, which only pods have.
"""

from collections.abc import Callable
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from esft.errors import EsftError, SpecError
from esft.layout import CLAIMS_FOLDER
from esft_worker import tiny

MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


class ModelUnavailableError(EsftError):
    """The model exists but cannot be fetched now: trying again may help."""


def default_cache() -> Path:
    """Where models that are made on this machine are kept."""
    return Path.home() / ".cache" / "esfinetune"


def model_directory(
    source: str,
    *,
    revision: str,
    token: str | None,
    cache: Path,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    claims: Path = Path(CLAIMS_FOLDER),
) -> Path:
    """Find the folder of a model in Hugging Face format, fetching or making it when needed.

    Args:
        source: hf://ORG/REPO, file:///DIR, pvc://CLAIM/DIR or tiny://NAME.
        revision: branch, tag or commit of a hf:// source.
        token: access token of a hf:// source.
        cache: where models that are made here are kept.
        progress: called with steps done and in all while a model is made.
        claims: where the claims of pvc:// sources are mounted.

    Raises:
        SpecError: there is no such model.
        ModelUnavailableError: it cannot be fetched now.
    """
    scheme, _, rest = source.partition("://")
    if scheme == "tiny":
        return tiny.cached(rest, cache, progress=progress)
    if scheme == "file":
        return _local_directory(Path(rest))
    if scheme == "pvc":
        return _claimed_directory(rest, claims)
    if scheme == "hf":
        return _hub_directory(rest, revision=revision, token=token)
    raise SpecError(
        f"spec.model.source: {scheme}:// cannot be read here. "
        "Fix: use hf://ORG/REPO, file:///DIR, pvc://CLAIM/DIR or tiny://countdown; s3:// is not supported yet."
    )


def _claimed_directory(path: str, claims: Path) -> Path:
    claim, _, folder = path.partition("/")
    if not (claims / claim).is_dir():
        raise SpecError(
            f"spec.model.source: no claim {claim} is mounted at {claims / claim}. Fix: in a cluster, name a "
            "PersistentVolumeClaim in the run's namespace; on one machine, use file:///DIR."
        )
    directory = (claims / claim / folder).resolve()
    if not directory.is_relative_to((claims / claim).resolve()) or not directory.is_dir():
        raise SpecError(
            f"spec.model.source: the claim {claim} has no folder {folder}. "
            "Fix: name a folder in Hugging Face format that lies in it, as pvc://CLAIM/DIR."
        )
    return _with_model(directory)


def _local_directory(directory: Path) -> Path:
    if not directory.is_dir():
        raise SpecError(
            f"spec.model.source: there is no folder {directory}. "
            "Fix: name a folder in Hugging Face format, as file:///DIR."
        )
    return _with_model(directory)


def _with_model(directory: Path) -> Path:
    if not (directory / "config.json").is_file():
        raise SpecError(
            f"spec.model.source: {directory} holds no config.json. "
            "Fix: name the folder that has config.json, *.safetensors and the tokenizer in it."
        )
    return directory


def _hub_directory(repository: str, *, revision: str, token: str | None) -> Path:
    try:
        path = snapshot_download(repository, revision=revision, token=token, allow_patterns=list(MODEL_FILES))
    except RepositoryNotFoundError as error:
        raise SpecError(
            f"spec.model.source: the hub has no model {repository} that this token can read. "
            "Fix: check the name, or give a token (HF_TOKEN, or spec.model.credentialsSecretRef in a cluster)."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelUnavailableError(
            f"spec.model.source: {repository} at {revision} cannot be downloaded, nor is it in the local cache. "
            "Fix: check the name, the revision and the network, or use file:///DIR."
        ) from error
    return Path(path)
