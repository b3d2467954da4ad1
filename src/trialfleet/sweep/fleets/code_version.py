"""Which code a study ran: git's commit and a digest of the files themselves."""

import hashlib

from trialfleet.sweep.fleets.app_code import AppCode, git


def code_version(code: AppCode) -> dict[str, str]:
    """`digest` of the files that jobs may import, and git's `commit` with a + behind it if files differ from it."""
    digest = hashlib.sha256()
    if code.root is None:
        return {"digest": digest.hexdigest()[:16]}
    for path in code.files:
        digest.update(str(path).encode() + b"\0" + (code.root / path).read_bytes() + b"\0")
    version = {"digest": digest.hexdigest()[:16]}
    commit = git(code.root, "rev-parse", "HEAD")
    if commit:
        folders = sorted({path.parts[0] for path in code.files})
        version["commit"] = commit + ("+" if git(code.root, "status", "--porcelain", "--", *folders) else "")
    return version
