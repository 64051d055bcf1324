"""The arithmetic that a patching sweep cannot do without, by closed formula: what the measured time is held against.

Counted are the multiplications and additions of dense products and of attention (2 for each pair), after all that is
known has been left out: a patch changes nothing below its layer, nothing before its position, and in the last layer the
metric sees one position only. Norms, activation functions and the readout of two tokens are left out.
"""

from dataclasses import dataclass

from pellucid import Config


@dataclass(frozen=True)
class Flops:
    """Of one prompt of `T` tokens whose two runs differ from position `first` on; the metric stands at the end."""

    config: Config
    T: int
    first: int

    @property
    def d(self) -> int:
        """Width of the stream."""
        return self.config.d_model

    @property
    def a(self) -> int:
        """Width of all heads together."""
        return self.config.attention.n_heads * self.config.attention.d_head

    @property
    def rows(self) -> int:
        """Positions in which the runs differ."""
        return self.T - self.first

    def qkv(self, rows: int) -> int:
        """Queries, keys and values."""
        return 3 * 2 * self.d * self.a * rows

    def attend(self, start: int) -> int:
        """Scores and mixture of all queries from a position on; query p sees p + 1 keys."""
        return 4 * self.a * sum(p + 1 for p in range(start, self.T))

    def out(self, rows: int) -> int:
        """What heads write."""
        return 2 * self.a * self.d * rows

    def mlp(self, rows: int) -> int:
        """Into the neurons and out of them."""
        return 0 if self.config.mlp is None else 4 * self.d * self.config.mlp.d_mlp * rows

    def carry(self, layer: int, start: int, changed: int) -> int:
        """From the stream before a layer, `changed` rows of which have changed from `start` on, to the end."""
        if layer == self.config.n_layers:
            return 0
        if layer == self.config.n_layers - 1:
            asks = 2 * self.d * self.a if start + changed == self.T else 0
            keys_and_values = 4 * self.d * self.a * changed
            return asks + keys_and_values + 4 * self.a * self.T + self.out(1) + self.mlp(1)
        rows = self.T - start
        here = self.qkv(changed) + self.attend(start) + self.out(rows) + self.mlp(rows)
        return here + self.carry(layer + 1, start, rows)

    def between(self, layer: int, start: int, changed: int) -> int:
        """From between attention and MLP of a layer to the end."""
        if layer == self.config.n_layers - 1:
            return self.mlp(1) if start + changed == self.T else 0
        return self.mlp(changed) + self.carry(layer + 1, start, changed)

    def runs(self) -> int:
        """The unpatched run, and of the other one what lies behind the first difference."""
        block = self.qkv(self.T) + self.attend(0) + self.out(self.T) + self.mlp(self.T)
        after = self.qkv(self.rows) + self.attend(self.first) + self.out(self.rows) + self.mlp(self.rows)
        return self.config.n_layers * (block + after)

    def by_position(self, site: str) -> int:
        """`resid_pre attn_out mlp_out` over layer × pos; the rows of `resid_pre` have known queries, keys, values."""
        cells = {
            "resid_pre": lambda layer, p: self.carry(layer, p, 1) - self.qkv(1) * self._in_front(layer, p),
            "attn_out": lambda layer, p: self.between(layer, p, 1),
            "mlp_out": lambda layer, p: self.carry(layer + 1, p, 1),
        }[site]
        return self.runs() + sum(
            cells(layer, p) for layer in range(self.config.n_layers) for p in range(self.first, self.T)
        )

    def _in_front(self, layer: int, p: int) -> float:
        """What of a row's queries, keys and values `carry` counted: in the last layer no query but the metric's."""
        return 1 if layer < self.config.n_layers - 1 or p == self.T - 1 else 2 / 3

    def heads_by_position(self) -> int:
        """`z` over layer × head × pos."""
        one = 2 * self.config.attention.d_head * self.d
        cells = sum(
            one + self.between(layer, p, 1)
            for layer in range(self.config.n_layers)
            for p in range(self.first, self.T)
            if layer < self.config.n_layers - 1 or p == self.T - 1
        )
        return self.runs() + self.config.attention.n_heads * cells

    def heads(self) -> int:
        """`q`, `k`, `v` or `pattern` over layer × head, all positions: attention once, then each head's output."""
        total = 0
        for layer in range(self.config.n_layers):
            rows = 1 if layer == self.config.n_layers - 1 else self.rows
            attention = 4 * self.a * self.T if rows == 1 else self.attend(self.first)
            each = 2 * self.config.attention.d_head * self.d * rows + self.between(layer, self.T - rows, rows)
            total += attention + self.config.attention.n_heads * each
        return self.runs() + total

    def neurons(self, layer: int) -> int:
        """`post` of one layer over its neurons, all positions at once."""
        each = 2 * self.d * self.rows + self.carry(layer + 1, self.first, self.rows)
        return self.runs() + self._d_mlp() * each

    def neurons_by_position(self, layer: int) -> int:
        """`post` of one layer over neuron × pos."""
        each = sum(2 * self.d + self.carry(layer + 1, p, 1) for p in range(self.first, self.T))
        return self.runs() + self._d_mlp() * each

    def _d_mlp(self) -> int:
        return 0 if self.config.mlp is None else self.config.mlp.d_mlp


def main() -> None:
    """Prints the formulas' values for GPT-2-small size and the pair of 17 tokens."""
    from bench._turns import GPT2_SMALL

    flops = Flops(GPT2_SMALL, T=17, first=10)
    told = {site: flops.by_position(site) for site in ("resid_pre", "attn_out", "mlp_out")}
    told |= {"z by layer × head × pos": flops.heads_by_position(), "q, k, v or pattern, heads": flops.heads()}
    told |= {f"neurons of layer {n}": flops.neurons(n) for n in (9, 5)}
    told["neurons of layer 9 by pos"] = flops.neurons_by_position(9)
    for name, count in told.items():
        print(f"  {name:28} {count / 1e9:8.1f} GFLOP")


if __name__ == "__main__":
    main()
