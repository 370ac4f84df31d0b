"""Figure 2 of the post: two Gaussians of weight 1/2 fitted to a target p with two modes, as a GIF.

Now q can equal p. Both divergences reach it, at different speeds and not from every start.

  python toy/toy_example_fkl_rkl_v2.py                      assets/fwd_kl_dual.gif, rev_kl_dual.gif
  python toy/toy_example_fkl_rkl_v2.py --post-numerics      the same with the post's numbers
  python toy/toy_example_fkl_rkl_v2.py --mu 4 5             a start from which reverse KL fails
  python toy/toy_example_fkl_rkl_v2.py --divergence jensen_shannon     jensen_shannon_dual.gif
"""

from collections.abc import Sequence

from toy.gaussian_figures import fit_and_draw, gaussian_parser
from toy.script import run_script


def main(argv: Sequence[str] | None = None) -> None:
    parser = gaussian_parser(__doc__, mu=[-1, 1], sigma="5", steps=500)
    fit_and_draw(parser.parse_args(argv), default_sigma={}, suffix="_dual")


if __name__ == "__main__":
    run_script(main)
