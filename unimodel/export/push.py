"""An export to the Hugging Face Hub, through huggingface_hub, checked for completeness after the upload."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi, RepoFile
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from unimodel.errors import RunError
from unimodel.export.folder import export_files, read_marker

REPOSITORY = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


def push_export(folder: Path, repository: str, *, private: bool) -> str:
    """Uploads an export and returns its address. The token comes from huggingface_hub's settings and is never shown.

    Raises ValueError for a malformed name or a missing token, RunError when the Hub refuses or a file is incomplete.
    """
    marker = read_marker(folder)
    if not REPOSITORY.match(repository):
        raise ValueError(f"--push {repository}: write it as OWNER/NAME")
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        message = f"{marker['run']}: stage {marker['stage']}, step {marker['step']}"
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
        files = export_files(folder)
        found = api.get_paths_info(repository, list(files))
        remote = {file.path: file.size for file in found if isinstance(file, RepoFile)}
    except OfflineModeIsEnabled:
        raise ValueError("--push needs the network, but HF_HUB_OFFLINE is set: unset it and run again") from None
    except LocalTokenNotFoundError:
        raise ValueError("--push needs a token: run `hf auth login` or set HF_TOKEN") from None
    except (HfHubHTTPError, HFValidationError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = {401: "the token is missing or wrong (`hf auth login`)", 403: "the token may not write there"}.get(
            status or 0
        )
        raise RunError(f"the Hub refused the push to {repository} ({hint or f'status {status}'})") from None
    incomplete = [name for name, size in files.items() if remote.get(name) != size]
    if incomplete:
        raise RunError(f"the push to {repository} is incomplete: {', '.join(incomplete)}; run it again")
    return f"{api.endpoint}/{repository}"
