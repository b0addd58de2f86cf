"""The Hugging Face Hub: names, files at one commit, uploads. The only importer of ``huggingface_hub``.

A name is parsed, its revision resolved to a commit once, and every file fetched at that commit::

    name = parse_name("hf://org/name@v1/recipe.yaml")    # or "org/name", "org/name@v1"
    found = resolve(name)                                # HubError: missing, gated, offline, ...
    path = fetch(found, name.path or "recipe.yaml", max_bytes=256 * 1024)
    readme = card("# A recipe", name="mine", tags=["recipe"])
    done = upload("org/name", {"recipe.yaml": b"...", "README.md": readme}, message="Upload a recipe")

``found.commit`` is what to write down, ``found.files`` maps every file of that commit to its size in bytes,
and ``str(found.at("recipe.yaml"))`` names a file for people and for provenance. Tokens, the endpoint and the
cache are huggingface_hub's (``HF_TOKEN`` or ``hf auth login``, ``HF_ENDPOINT``, ``HF_HOME``); nothing but the
cache is written to. Without a network ``offline=True``, :func:`go_offline` or ``HF_HUB_OFFLINE=1`` use what
the cache holds. Of several processes only one should call this; what it found can be pickled.

Everything that can go wrong is a :class:`~irnet_convert.errors.HubError`, which says what was asked for, what
came back and how to mend it; what else these functions raise is a defect. Names of files are checked by
:func:`check_file_name` (as POSIX and as Windows paths) before they touch a disk; use it also for names that a
file from the Hub mentions.
"""

from irnet_convert.hub.card import Measured, card
from irnet_convert.hub.client import Resolved, check_tag, fetch, go_offline, is_offline, resolve
from irnet_convert.hub.names import HubName, check_file_name, is_on_hub, parse_name
from irnet_convert.hub.publish import Uploaded, upload
from irnet_convert.hub.shards import split_weights

__all__ = [
    "HubName",
    "Measured",
    "Resolved",
    "Uploaded",
    "card",
    "check_file_name",
    "check_tag",
    "fetch",
    "go_offline",
    "is_offline",
    "is_on_hub",
    "parse_name",
    "resolve",
    "split_weights",
    "upload",
]
