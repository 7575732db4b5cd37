"""How the people and firms of the world are spoken of: people by their first name, a firm by its line of business."""

from __future__ import annotations

from typing import NamedTuple

from kga.data.embedded.world import Party

# German (all of them feminine) and English word by a firm's line of business.
FIRMS = {
    "Bakery": ("Bäckerei", "bakery"),
    "Brewery": ("Brauerei", "brewery"),
    "Carpentry": ("Zimmerei", "carpentry"),
    "Catering": ("Partyküche", "catering firm"),
    "Clockworks": ("Uhrenfabrik", "clock factory"),
    "Ironworks": ("Eisenfabrik", "iron factory"),
    "Joinery": ("Tischlerei", "joinery"),
    "Laundry": ("Wäscherei", "laundry"),
    "Logistics": ("Spedition", "logistics firm"),
    "Opticians": ("Brillenfabrik", "glasses factory"),
    "Pottery": ("Töpferei", "pottery"),
    "Printing": ("Druckerei", "printing firm"),
    "Roofing": ("Dachfirma", "roofing firm"),
    "Saddlery": ("Sattlerei", "saddlery"),
    "Shipping": ("Reederei", "shipping firm"),
    "Textiles": ("Weberei", "textile factory"),
}


class Naming(NamedTuple):
    """A party's name in running text: in German as subject and as dative object, and in English."""

    nominative: str
    dative: str
    english: str
    is_firm: bool


def naming(party: Party) -> Naming:
    """How a party is spoken of: "Frieda" in every case, or "die Bäckerei", "der Bäckerei", "the bakery"."""
    first, last = party.name.split()
    if last not in FIRMS:
        return Naming(first, first, first, is_firm=False)
    german, english = FIRMS[last]
    return Naming(f"die {german}", f"der {german}", f"the {english}", is_firm=True)
