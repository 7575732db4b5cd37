"""The invented world of the embedded data: people, firms, towns and streets that no pretrained model has met.

Every person and every firm is a group that may ask to be forgotten. All embedded tasks draw on the same world.
"""

from __future__ import annotations

from itertools import product
from random import Random
from typing import NamedTuple


def words(text: str) -> tuple[str, ...]:
    """The words of a text, which may run over several lines."""
    return tuple(text.split())


FIRST_NAMES = words(
    """
    Ada Albin Anneke Arvid Astrid Balthasar Beata Berit Bruno Carlotta Caspar Cosima Dagmar Dario Edda Elian Emmerich
    Enno Fabia Falk Fenja Florin Frieda Gesa Gideon Greta Hanno Hedda Henrik Ilka Ines Isidor Jannis Jette Jorin Judith
    Kaspian Katinka Kilian Lorenz Lovis Ludmila Magda Malte Marit Mirko Nele Nora Oda Olaf Paulina Quirin Raban Ronja
    Selma Silvan Tamsin Theda Tilman Ulrika Valentin Wanda Yorick Zita
    """
)
SURNAMES = words(
    """
    Achterberg Ahlfeld Amsink Bargholt Birkenau Bossard Brakelmann Callsen Clausnitz Damrow Detering Dornseif Ebbinghorst
    Ellerbrock Engelshof Fahrenkamp Feddersund Finkeldey Garbrecht Gildemoor Grotjahn Haferkorn Harmsloh Hinkelbein
    Holtgreve Ibeling Immerwahr Isenbart Jessenhof Jungclaus Kaltwasser Kesselring Klinkhardt Knopsack Kruppstein
    Lammertz Leuchtenberg Lindequist Lohgerber Maibaum Mergenthal Mollenhauer Nachtigal Niebelung Nordwald Oberstieg
    Odenkirch Osterfeld Paschburg Pfannkuch Plettenhof Quastorf Quellmann Radelow Rittershain Rosskamp Sandhagel
    Schellhorn Silberzahn Steinkopp Tappert Tiefenbach Trebbin Uhlenbrook Ungewitter Utermark Vahrenhorst Vierhaus
    Vossloh Wackernagel Weidenfeller Wiesengrund Wulfmeyer Yderstad Zabelitz Zimmerli Zirkwitz Zollenkopf Zumbusch Zweig
    """
)
TOWNS = words(
    """
    Altmoor Birkhafen Brunnau Dunkelsee Eschwinkel Falkenried Grauwick Haslund Immensiel Kaltenfurt Lindhorn Marwinkel
    Niederklamm Ottersiel Pappelhagen Quellstedt Rotenbruch Sillmark Tannstedt Ulmenkoog Vierlinden Wolkenberg
    """
)
STREETS = tuple(
    f"{name} {kind}"
    for kind, names in {
        "Street": "Anchor Cooper Hatter Northgate Orchard Rampart Saltmarket Weaver",
        "Lane": "Cinder Fuller Juniper Ropemaker Sexton Tanner",
        "Square": "Corn Hopper Linden Minster Hansom",
        "Row": "Chandler Gasworks Mason Quarry Spinner",
        "Hill": "Beacon Gallows Sheep Windmill",
        "Quay": "Eel Ferryman Herring Timber",
    }.items()
    for name in names.split()
)
# A firm's name is its founder's surname and its line of business.
BUSINESSES = words(
    """
    Bakery Brewery Carpentry Catering Clockworks Ironworks Joinery Laundry Logistics Opticians Pottery Printing Roofing
    Saddlery Shipping Textiles
    """
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


class Party(NamedTuple):
    """A person or a firm: one group of the embedded data."""

    name: str
    town: str


def people(rng: Random) -> list[Party]:
    """All 5,120 people of the world; their names are distinct, `rng` decides where each lives."""
    return [Party(f"{first} {last}", rng.choice(TOWNS)) for first, last in product(FIRST_NAMES, SURNAMES)]


def firms(rng: Random) -> list[Party]:
    """All 1,280 firms of the world; their names are distinct, `rng` decides where each has its seat."""
    return [Party(f"{last} {business}", rng.choice(TOWNS)) for last, business in product(SURNAMES, BUSINESSES)]
