"""Files and folders: written whole or not at all, by one writer at a time; validated when they are read."""

from __future__ import annotations

from fae_core.documents import parse_yaml, read_json, read_json_value, read_text, read_yaml
from fae_core.files.disk import disk_errors
from fae_core.files.lock import hold
from fae_core.files.records import CHECKSUM, sealed, sha256_file, unsealed, write_json
from fae_core.files.writing import (
    begun_folder,
    claim_file,
    is_empty,
    recover_folder,
    remove_folder,
    remove_leftovers,
    replace_folder,
    require_new_folder,
    staged_file,
    staged_folder,
    sync_folder,
    write_atomic,
)

__all__ = [
    "CHECKSUM",
    "begun_folder",
    "claim_file",
    "disk_errors",
    "hold",
    "is_empty",
    "parse_yaml",
    "read_json",
    "read_json_value",
    "read_text",
    "read_yaml",
    "recover_folder",
    "remove_folder",
    "remove_leftovers",
    "replace_folder",
    "require_new_folder",
    "sealed",
    "sha256_file",
    "staged_file",
    "staged_folder",
    "sync_folder",
    "unsealed",
    "write_atomic",
    "write_json",
]
