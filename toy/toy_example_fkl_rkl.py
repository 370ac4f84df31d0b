"""Figure 1 of the post: one Gaussian q fitted to a target p with two modes, as a GIF.

Forward KL spreads q over both modes: mu -> 0, sigma -> 3.04. Reverse KL settles on one of them and
pays ln 2 = 0.6931 for the other.

  python toy/toy_example_fkl_rkl.py                             assets/fwd_kl.gif, assets/rev_kl.gif
  python toy/toy_example_fkl_rkl.py --post-numerics             the same with the post's numbers
  python toy/toy_example_fkl_rkl.py --divergence adaptive_kl    assets/adaptive_kl.gif
  python toy/toy_example_fkl_rkl.py --mu random --seed 7 --sigma 2 --json /tmp/fits.json
"""

from collections.abc import Sequence

from toy.gaussian_figures import fit_and_draw, gaussian_parser
from toy.script import run_script


def main(argv: Sequence[str] | None = None) -> None:
    parser = gaussian_parser(__doc__, mu=[5], sigma="1 for reverse_kl, else 5", steps=100)
    fit_and_draw(parser.parse_args(argv), default_sigma={"reverse_kl": 1.0}, suffix="")


if __name__ == "__main__":
    run_script(main)
