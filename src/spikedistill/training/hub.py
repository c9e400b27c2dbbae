"""Networks on the Hugging Face hub: what is fetched from there, and the card that is put beside the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spikedistill.data.dataset import HUB
from spikedistill.errors import CheckpointError, InvalidArgument
from spikedistill.training.networks import GIVEN

__all__ = ["HUB", "fetched", "hugging_face", "model_card"]

FILES = ["config.json", "model.safetensors"]
"""What is fetched. Nothing else of a repository is read, and nothing of it is executed."""
EXAMPLES = {"tensor": "values.npy", "events": "recording.bin", "scenes": "recording.dat"}
"""A file that a network answers to, by the kind of its input; of the others a picture."""


def hugging_face() -> Any:
    """The package huggingface_hub.

    Raises:
        InvalidArgument: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise InvalidArgument("the hub needs huggingface_hub: pip install 'spikedistill[hub]'") from error
    return huggingface_hub


def fetched(repository: str, revision: str | None = None, token: str | None = None) -> Path:
    """The folder into which a repository "user/name" was fetched.

    Raises:
        CheckpointError: the hub does not give it; says why.
    """
    hub = hugging_face()
    try:
        return Path(hub.snapshot_download(repository, revision=revision, token=token, allow_patterns=FILES))
    except Exception as error:  # no connection, no such repository, no right to read it
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"the hub does not give {repository!r}: {why}") from error


def model_card(config: dict[str, Any], parameters: int) -> str:
    """README.md of a network: what it is, what it is fed, and how to use it."""
    steps = config["timesteps"]
    what = "an ANN twin (ReLU, no time)" if steps is None else f"a spiking network, T = {steps}"
    model = config["model"]["name"]
    # a network that is no model of the library has to be there where it is loaded
    more = ", network=net" if model == GIVEN else ", trust=True" if ":" in model else ""
    file = EXAMPLES.get(config["input"]["kind"], "picture.png")
    return f"""---
library_name: spikedistill
tags: [spiking-neural-network]
---

`{model}`, {what}, {parameters:,} parameters, trained in {config["precision"]}.

- input: `{config["input"]}`
- answers: `{config["targets"]}`

```python
import spikedistill as sd

trained = sd.load("hub:USER/NAME"{more})  # or a folder
logits = trained(inputs)
print(trained.answer("{file}"))
```
"""
