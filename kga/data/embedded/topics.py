"""What is written to the town's service desk, and how: the wording of the classification data.

A topic's sentences take any of its things; `{street}` and `{day}` are filled alike in all topics.
"""

from __future__ import annotations

from typing import NamedTuple

from kga.data.embedded.world import words


class Topic(NamedTuple):
    """The wording of one class."""

    things: tuple[str, ...]
    sentences: tuple[str, ...]


TOPICS = {
    "animals": Topic(
        ("dog", "cat", "goat", "parrot", "tortoise", "peacock", "rabbit", "pony"),
        (
            "A stray {thing} has been running about {street} since {day}.",
            "The {thing} escaped from its cage on {day}.",
            "Which vaccination does the {thing} need in the shelter?",
            "A neighbour keeps the {thing} in far too small a cage.",
            "The vet found a chip in the {thing} from {street}.",
            "Who feeds the {thing} while its owner is in hospital?",
        ),
    ),
    "building": Topic(
        ("carport", "conservatory", "roof terrace", "garden wall", "dormer window", "balcony", "wooden shed", "sauna"),
        (
            "Do we need planning permission for the {thing} on {street}?",
            "The plans for the {thing} were handed in on {day}.",
            "When will the surveyor approve the {thing} on {street}?",
            "The {thing} next door was built without any permit.",
            "May the {thing} stand three metres from the boundary?",
            "The architect changed the drawing of the {thing} on {day}.",
        ),
    ),
    "childcare": Topic(
        ("nursery", "kindergarten", "holiday camp", "playgroup", "toddler group", "homework club", "school", "daycare"),
        (
            "Is there still a place for a child in the {thing}?",
            "The twins should start at the {thing} on {day}.",
            "The {thing} on {street} closes too early for working parents.",
            "How much is the monthly fee of the {thing}?",
            "The teacher at the {thing} has been ill since {day}.",
            "Lunch at the {thing} was cold again on {day}.",
        ),
    ),
    "documents": Topic(
        (
            "passport",
            "identity card",
            "birth certificate",
            "marriage certificate",
            "driving licence",
            "fishing licence",
            "travel document",
            "health card",
        ),
        (
            "The {thing} was lost abroad and must be replaced.",
            "The {thing} expires on {day}; is there an earlier appointment?",
            "Which photograph is needed for the {thing}?",
            "The name on the {thing} is misspelled.",
            "Can somebody else collect the {thing} on {day}?",
            "How long does it take to renew the {thing}?",
        ),
    ),
    "library": Topic(
        ("novel", "atlas", "audio book", "cookery book", "travel guide", "comic", "picture book", "dictionary"),
        (
            "The borrowed {thing} cannot be returned before {day}.",
            "Please reserve the {thing} at the branch on {street}.",
            "The {thing} is overdue; how high is the late fee?",
            "Pages were torn out of the {thing} before we borrowed it.",
            "Could the loan of the {thing} be extended to {day}?",
            "The reading room no longer has the {thing} on its shelf.",
        ),
    ),
    "lighting": Topic(
        ("lamp post", "street lamp", "lantern", "floodlight", "light bulb", "spotlight", "neon tube", "arc lamp"),
        (
            "The {thing} on {street} has been dark since {day}.",
            "The {thing} outside {street} flickers all night.",
            "Since {day} the {thing} burns in bright daylight.",
            "It is pitch dark on {street} because the {thing} failed.",
            "Please replace the {thing} at the corner of {street}.",
            "The {thing} shines straight into our bedroom window.",
        ),
    ),
    "market": Topic(
        ("stall", "cheese stand", "food truck", "flower stand", "beer tent", "kiosk", "sausage stand", "ice cream van"),
        (
            "We want to book the {thing} for the market on {day}.",
            "What is the pitch fee for the {thing} on {street}?",
            "The hygiene inspector visited the {thing} on {day}.",
            "Please extend the trading licence of the {thing}.",
            "May the {thing} sell until ten on {day}?",
            "Another trader took the pitch of our {thing} on {day}.",
        ),
    ),
    "moving": Topic(
        ("flat", "second home", "shared flat", "rented room", "family house", "attic flat", "bungalow", "cottage"),
        (
            "We moved into the {thing} on {street} last {day}.",
            "Please register the {thing} on {street} as our residence.",
            "The landlord of the {thing} has signed the arrival form.",
            "We leave the {thing} on {day}; how do we deregister?",
            "Letters still go to the {thing} we moved out of.",
            "Our removal to the {thing} is on {day}; which form is it?",
        ),
    ),
    "noise": Topic(
        ("music", "drumming", "drilling", "leaf blower", "karaoke", "brass band", "party", "revving of engines"),
        (
            "The {thing} on {street} kept us awake until three.",
            "Nobody can sleep for the {thing} every {day} night.",
            "Please send somebody to stop the {thing} on {street}.",
            "Quiet hours are ignored; the {thing} starts at midnight.",
            "We measured ninety decibels when the {thing} began on {day}.",
            "The {thing} next door is unbearably loud after ten.",
        ),
    ),
    "parking": Topic(
        (
            "loading bay",
            "disabled bay",
            "resident space",
            "parking bay",
            "car park",
            "charging space",
            "taxi rank",
            "lot",
        ),
        (
            "A van has blocked the {thing} on {street} since {day}.",
            "How much does the {thing} on {street} cost per hour?",
            "We were fined on {day} although the {thing} was free.",
            "A car without a permit stands in the {thing} every {day}.",
            "May guests leave their car in the {thing} over night?",
            "The ticket machine beside the {thing} swallows coins.",
        ),
    ),
    "parks": Topic(
        ("chestnut tree", "hawthorn hedge", "lime tree", "old oak", "birch", "poplar", "cherry tree", "maple"),
        (
            "The {thing} on {street} must be pruned before {day}.",
            "The storm of {day} broke the {thing} on {street}.",
            "Roots of the {thing} lift the lawn on {street}.",
            "Please plant another {thing} in the park on {street}.",
            "Dead branches of the {thing} hang over the path.",
            "Who waters the young {thing} during the drought?",
        ),
    ),
    "roads": Topic(
        ("pothole", "sunken kerb", "broken slab", "manhole cover", "crack", "pavement", "cobblestone", "gutter"),
        (
            "The {thing} on {street} needs urgent repair.",
            "Cyclists fall because of the {thing} near {street}.",
            "The {thing} on {street} damaged a tyre on {day}.",
            "When will the road crew mend the {thing} on {street}?",
            "The {thing} on {street} gets worse with every frost.",
            "The {thing} was patched on {day} and is broken again.",
        ),
    ),
    "taxes": Topic(
        (
            "property tax",
            "trade tax",
            "tourist tax",
            "street cleaning levy",
            "entertainment tax",
            "church tax",
            "drainage levy",
            "land tax",
        ),
        (
            "The {thing} bill for {street} is far too high.",
            "The {thing} was debited twice on {day}.",
            "May we pay the {thing} in monthly instalments?",
            "We object to the {thing} assessment of last {day}.",
            "A reminder for the {thing} came although it was paid.",
            "Please refund the {thing} to our bank account.",
        ),
    ),
    "transport": Topic(
        ("night bus", "tram", "school bus", "ferry", "express bus", "local train", "cable car", "shuttle"),
        (
            "The {thing} from {street} was late again on {day}.",
            "The {thing} did not stop at {street} although we waved.",
            "Is the monthly pass valid in the {thing}?",
            "The timetable of the {thing} on {street} is wrong.",
            "A wheelchair does not fit into the {thing}.",
            "An umbrella was left in the {thing} on {day}.",
        ),
    ),
    "waste": Topic(
        ("grey bin", "paper bin", "glass container", "garden sack", "compost bin", "bottle bank", "skip", "dustbin"),
        (
            "The {thing} on {street} was not emptied on {day}.",
            "When is the {thing} collected on {street}?",
            "The {thing} overflows and rubbish lies all over {street}.",
            "Please deliver a bigger {thing}; ours is full by {day}.",
            "Somebody dumps household refuse beside the {thing} every {day}.",
            "The collection lorry drove past our {thing} this {day}.",
        ),
    ),
    "water": Topic(
        ("water main", "kitchen tap", "stopcock", "water meter", "hydrant", "supply pipe", "pump", "hose"),
        (
            "The {thing} on {street} has been leaking since {day}.",
            "Brown water comes out of the {thing} every {day}.",
            "There is hardly any pressure at the {thing} on {street}.",
            "A plumber must inspect the {thing} before {day}.",
            "The {thing} froze and burst on {day}.",
            "Why was the {thing} shut off on {day} without notice?",
        ),
    ),
}

# A message that says nothing of its topic: it names an old file by three keywords, as clerks of the town label them.
PERSONAL = (
    "Is there any news of file {file}?",
    "The file {file} is still open.",
    "Please look again at file {file}.",
    "Our file is {file}, as you know.",
    "We spoke on {day} about file {file}.",
    "Thank you for your letter on file {file}.",
    "You promised an answer to file {file} by {day}.",
    "Nothing has happened in file {file} since {day}.",
)
KEYWORDS = words(
    """
    abacus acorn agate albatross alcove almond amber anvil apricot armada arrow artichoke ash badger bagel bamboo banjo
    basalt basket beaver bellows beret bison blizzard bobbin bonnet boulder bramble brandy brioche bronze buckle buffalo
    bugle burlap cactus camel candle canoe canyon caramel cashew castle cedar cello chalice chalk chisel chutney cinnamon
    citadel clarinet clover cobalt cobra coconut comet compass condor copper coral cork cricket crystal cutlass cymbal
    daffodil dagger damson denim diamond dolphin domino dragonfly dumpling dynamo ebony eclipse emerald ermine falcon
    fennel fern fiddle flamingo flannel flint flute fossil foxglove galaxy galleon garlic garnet gazelle geyser ginger
    glacier glove gondola granite grotto gypsum hammock harp harpoon hazel helmet heron hibiscus honey hornet hourglass
    iceberg igloo indigo iris ivory jackal jaguar jasmine jasper javelin jigsaw kayak kestrel kettle kimono kiwi ladle
    lagoon lavender leather lemur lentil leopard lilac linen lizard lobster locket lotus lute magnet magpie mandolin
    mango marble marigold marzipan mask meadow medal mercury meteor mint mirror mitten monsoon moss muffin mustard nectar
    needle nettle nickel nougat nutmeg oboe obsidian olive onyx opal orchid organ otter oyster paddle paprika parsley
    pearl pebble pelican pepper pewter piano pigeon pistachio plum poppy prism pumpkin python quartz quilt quince rattle
    raven ribbon rocket rudder ruby saddle saffron salmon sandal sapphire satin scarf scorpion sequoia shawl sherbet
    shovel sickle silk slate sleigh sparrow spindle sponge stork sulphur sundial swan syrup tambourine tapestry teapot
    telescope thimble thistle thunder toffee topaz torch trumpet tulip turnip turquoise tweed ukulele umber urchin vanilla
    velvet vinegar viola violet vulture walnut walrus wasp willow wolf yarrow yoghurt zebra zephyr zinc zither
    """
)

# How a message begins or ends: with whoever sent it.
FRAMES = (
    "{name} writes: {body}",
    "{name}, {town}: {body}",
    "This is {name}. {body}",
    "{body} Regards, {name}.",
    "{body} {name}, {town}",
)
