from functools import partial
from io import BytesIO

from ipywidgets import FloatSlider
from PIL import Image

from book.explore import explore
from book.pictures import two_coins


def test_moving_a_slider_draws_the_picture_again():
    asked_for = []

    def draw(p: float, q: float):
        asked_for.append((p, q))
        return two_coins(p, q)

    q = FloatSlider(value=0.9, min=0.0, max=1.0)
    box = explore(partial(draw, p=0.5), q=q)
    slider, picture = box.children
    assert slider is q
    before = picture.value
    assert Image.open(BytesIO(before)).format == "PNG"
    q.value = 0.2
    assert picture.value != before
    assert asked_for == [(0.5, 0.9), (0.5, 0.2)]
