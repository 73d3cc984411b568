"""Text that `sluice serve` prints once it accepts traffic: for a policy with a public demo key, everything needed for
a first answer."""

from policies.config.settings import Policy


def banner(policy: Policy, address: str, admin: str, key: str | None) -> str:
    """Return the lines for stdout. The curl and the Python snippet work as printed; no line before the curl begins
    with `curl`."""
    base = f"http://{address}/v1" if not address.startswith("unix:") else None
    lines = ["", f"Sluice is listening on {address}; admin on http://{admin} (/healthz /readyz /metrics)"]
    model = next(
        (route.model for route in policy.routes if route.model is not None and not set("*?[") & set(route.model)), None
    )
    if key is None or base is None or model is None:
        return "\n".join([*lines, "", ""])
    body = f'{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'
    return "\n".join([
        *lines,
        f"Demo key (public, for this example only): {key}",
        "",
        "A streamed answer:",
        "",
        # One line each, so that they can be copied.
        f"curl -N {base}/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d '{body}'",  # noqa: E501
        "",
        "The same with the openai SDK (pip install openai):",
        "",
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{base}", api_key="{key}")',
        f'for chunk in client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}], stream=True):',  # noqa: E501
        '    print(chunk.choices[0].delta.content or "", end="", flush=True)',
        "",
        "Ctrl-C ends it.",
        "",
        "",
    ])  # fmt: skip
