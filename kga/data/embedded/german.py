"""The words of the translation data and their forms: German grammar enough for its sentences, and the English."""

from __future__ import annotations

from typing import NamedTuple

from kga.data.embedded.world import words

# By case and gender (m, f, n): definite article and the ending of an adjective behind it, then the same, indefinite.
DECLENSION = {
    ("nominative", "m"): ("der", "e", "ein", "er"),
    ("nominative", "f"): ("die", "e", "eine", "e"),
    ("nominative", "n"): ("das", "e", "ein", "es"),
    ("accusative", "m"): ("den", "en", "einen", "en"),
    ("accusative", "f"): ("die", "e", "eine", "e"),
    ("accusative", "n"): ("das", "e", "ein", "es"),
    ("dative", "m"): ("dem", "en", "einem", "en"),
    ("dative", "f"): ("der", "en", "einer", "en"),
    ("dative", "n"): ("dem", "en", "einem", "en"),
}


class Noun(NamedTuple):
    """A noun in the singular; those used here look alike in all cases."""

    gender: str
    german: str
    english: str

    def phrase(self, case: str, adjective: str = "", definite: bool = True) -> str:
        """The noun with its article and, if one is given by its stem, an adjective: "den alten Stuhl"."""
        the, ending, a, weak_ending = DECLENSION[case, self.gender]
        article, ending = (the, ending) if definite else (a, weak_ending)
        return f"{article} {adjective}{ending} {self.german}" if adjective else f"{article} {self.german}"


class Verb(NamedTuple):
    """A verb; the prefix of a separable one stands apart from `present` in a main clause and before it elsewhere."""

    infinitive: str
    prefix: str
    present: str
    participle: str
    base: str
    third: str
    past: str
    past_participle: str


def _nouns(**genders: str) -> tuple[Noun, ...]:
    pairs = [(gender, pair.partition("/")) for gender, text in genders.items() for pair in words(text)]
    return tuple(Noun(gender, german, english) for gender, (german, _, english) in pairs)


def _verbs(text: str) -> tuple[Verb, ...]:
    return tuple(Verb(*(form.strip() for form in line.split(","))) for line in text.strip().splitlines())


THINGS = _nouns(
    m="""
    Stuhl/chair Tisch/table Schrank/cupboard Koffer/suitcase Mantel/coat Hut/hat Schirm/umbrella Ball/ball Ofen/oven
    Brief/letter Eimer/bucket
    """,
    f="""
    Lampe/lamp Uhr/clock Tasche/bag Flasche/bottle Jacke/jacket Karte/map Leiter/ladder Vase/vase Tasse/cup Bank/bench
    Pfanne/pan
    """,
    n="""
    Buch/book Bild/picture Rad/bicycle Hemd/shirt Kleid/dress Bett/bed Sofa/sofa Boot/boat Zelt/tent Radio/radio
    Seil/rope
    """,
)
PEOPLE = _nouns(
    m="Lehrer/teacher Arzt/doctor Richter/judge Onkel/uncle Bruder/brother",
    f="Köchin/cook Tante/aunt Schwester/sister",
    n="Kind/child Mädchen/girl",
)
# infinitive, prefix, present, participle; base, third person, past, past participle
VERBS = _verbs(
    """
    kaufen,, kauft, gekauft, buy, buys, bought, bought
    verkaufen,, verkauft, verkauft, sell, sells, sold, sold
    finden,, findet, gefunden, find, finds, found, found
    verlieren,, verliert, verloren, lose, loses, lost, lost
    malen,, malt, gemalt, paint, paints, painted, painted
    putzen,, putzt, geputzt, clean, cleans, cleaned, cleaned
    tragen,, trägt, getragen, carry, carries, carried, carried
    verstecken,, versteckt, versteckt, hide, hides, hid, hidden
    bestellen,, bestellt, bestellt, order, orders, ordered, ordered
    abholen, ab, holt, abgeholt, collect, collects, collected, collected
    mitbringen, mit, bringt, mitgebracht, bring along, brings along, brought along, brought along
    zurückgeben, zurück, gibt, zurückgegeben, return, returns, returned, returned
    wegwerfen, weg, wirft, weggeworfen, throw away, throws away, threw away, thrown away
    einpacken, ein, packt, eingepackt, pack, packs, packed, packed
    auspacken, aus, packt, ausgepackt, unpack, unpacks, unpacked, unpacked
    anbieten, an, bietet, angeboten, offer, offers, offered, offered
    """
)


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((german, english) for german, _, english in (pair.partition("/") for pair in words(text)))


ADJECTIVES = _pairs(
    """
    rot/red blau/blue grün/green gelb/yellow braun/brown weiß/white schwarz/black alt/old neu/new klein/small
    groß/big schön/pretty leer/empty
    """
)
MOODS = _pairs("froh/glad traurig/sad müde/tired krank/ill ruhig/calm stolz/proud")
NUMBERS = _pairs("zwei/two drei/three vier/four fünf/five sechs/six sieben/seven acht/eight neun/nine")
DAYS = _pairs("Montag/Monday Dienstag/Tuesday Mittwoch/Wednesday Donnerstag/Thursday Freitag/Friday Samstag/Saturday")
