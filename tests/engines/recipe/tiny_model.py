"""Writes a model folder that vLLM serves offline: a Llama in shape, without weights
(`--load-format dummy` makes random ones).

    python tiny_model.py FOLDER

Run by the cache's own Python, which has `tokenizers`. The tokenizer is trained on the standard library's sources, so
nothing is fetched. The size is chosen for two cores: some 10 ms a token and seconds for a prompt of 6,000 tokens, slow
enough that a client can leave in the middle of either.
"""

import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tokenizers import (  # type: ignore[import-not-found]  # it is in the cache alone
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)

VOCABULARY = 4096
CONTEXT = 8192
END, PAD, TURN_BEGINS, TURN_ENDS = "<|end|>", "<|pad|>", "<|turn|>", "<|/turn|>"

# Turns with a role line; tools as JSON lines ahead of them, calls as vLLM's `hermes` parser reads them.
CHAT_TEMPLATE = """\
{%- if tools %}<|turn|>system
Functions that you may call, one a line. Call with <tool_call>{"name": ..., "arguments": {...}}</tool_call>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|/turn|>
{% endif %}
{%- for message in messages %}<|turn|>{{ message.role }}
{% if message.content is string %}{{ message.content }}
{%- elif message.content %}{% for part in message.content %}{{ part.text }}{% endfor %}
{%- endif %}
{%- for call in message.tool_calls or [] %}
<tool_call>{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}<|/turn|>
{% endfor %}
{%- if add_generation_prompt %}<|turn|>assistant
{% endif %}"""


def _texts(limit: int = 2_000_000) -> Iterator[str]:
    """Sources of the standard library in a fixed order, `limit` characters in all."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        yield text
        limit -= len(text)
        if limit <= 0:
            return


def _write_tokenizer(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        # The whole byte alphabet: random answers then hold cut UTF-8, as real ones do.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END, PAD, TURN_BEGINS, TURN_ENDS],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END,
            "eos_token": TURN_ENDS,
            "pad_token": PAD,
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    return tokenizer


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def make(folder: Path) -> None:
    """Write the folder; it must not be there yet."""
    folder.mkdir(parents=True)
    tokenizer = _write_tokenizer(folder)
    ids = {
        "bos_token_id": tokenizer.token_to_id(END),
        "eos_token_id": tokenizer.token_to_id(TURN_ENDS),
        "pad_token_id": tokenizer.token_to_id(PAD),
    }
    _write(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "max_position_embeddings": CONTEXT,
            "vocab_size": VOCABULARY,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            **ids,
        },
    )
    _write(folder / "generation_config.json", {"do_sample": True, "temperature": 1.0, **ids})


if __name__ == "__main__":
    make(Path(sys.argv[1]))
