"""The words of the harbour town, English beside Norwegian bokmål, with every inflected form the grammar needs.

Regular Norwegian forms follow from the gender; irregular ones are spelled out as `singular/definite/plural/definite`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """One countable noun in both languages."""

    english: str
    english_plural: str
    gender: str  # m, f or n
    norwegian: str
    definite: str
    plural: str
    definite_plural: str
    category: str


@dataclass(frozen=True)
class Adjective:
    """One adjective; Norwegian agrees as `common` (m, f), `neuter`, or `plural` (also every definite form)."""

    english: str
    common: str
    neuter: str
    plural: str


@dataclass(frozen=True)
class Verb:
    """One verb that takes an object of one of the categories in `objects` (empty: it takes none)."""

    base: str
    third: str
    past: str
    norwegian: str  # infinitive
    norwegian_present: str
    norwegian_past: str
    objects: tuple[str, ...]


def _regular_forms(gender: str, stem: str) -> tuple[str, str, str, str]:
    if stem.endswith("e"):
        definite = {"m": stem + "n", "f": stem[:-1] + "a", "n": stem + "t"}[gender]
        return stem, definite, stem + "r", stem + "ne"
    if gender == "n":
        return stem, stem + "et", stem, stem + "ene"
    return stem, stem + ("en" if gender == "m" else "a"), stem + "er", stem + "ene"


def _norwegian_forms(gender: str, spelled: str) -> tuple[str, str, str, str]:
    if "/" in spelled:
        singular, definite, plural, definite_plural = spelled.split("/")
        return singular, definite, plural, definite_plural
    if spelled.endswith("er") and gender == "m":  # agent nouns: baker, bakeren, bakere, bakerne
        return spelled, spelled + "en", spelled + "e", spelled + "ne"
    return _regular_forms(gender, spelled)


def english_plural(word: str) -> str:
    """The regular English plural; irregular nouns name theirs in the table."""
    if word.endswith(("s", "sh", "ch", "x")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def _nouns() -> tuple[Noun, ...]:
    nouns = []
    for block in _NOUN_TABLE.split(";"):
        category, entries = block.strip().split(":")
        for entry in entries.split(","):
            english, gender, spelled = entry.split()
            singular, _, plural = english.partition("/")
            forms = _norwegian_forms(gender, spelled)
            nouns.append(Noun(singular, plural or english_plural(singular), gender, *forms, category))
    return tuple(nouns)


_NOUN_TABLE = """
animal: cat m katt, dog m hund, horse m hest, cow f ku/kua/kyr/kyrne, pig m gris, goat f geit, bird m fugl, duck f
    and/anda/ender/endene, goose/geese f gås/gåsa/gjess/gjessene, mouse/mice f mus/musa/mus/musene, rabbit m kanin,
    fox m rev, wolf/wolves m ulv, bear m bjørn, lamb n lam/lammet/lam/lammene, hen f høne, snake m slange, frog m
    frosk, bee f bie, spider m edderkopp, seal m sel, whale m hval, crab f krabbe, gull f måke, eagle f ørn, swan f
    svane, calf/calves m kalv, owl f ugle, squirrel n ekorn/ekornet/ekorn/ekornene, moose/moose m elg;
food: apple n eple, pear f pære, potato/potatoes f potet, carrot f gulrot/gulrota/gulrøtter/gulrøttene, onion m løk,
    egg n egg, cake f kake, waffle m vaffel/vaffelen/vafler/vaflene, pancake f pannekake, sausage f pølse,
    tomato/tomatoes m tomat, lemon m sitron, orange m appelsin, plum f plomme, pea f ert, bean f bønne, cheese m
    ost, soup f suppe, pie m pai, berry n bær, nut f nøtt, biscuit m kjeks/kjeksen/kjeks/kjeksene, banana m banan,
    cucumber m agurk, loaf/loaves n brød;
clothing: coat m frakk, shirt f skjorte, hat m hatt, shoe m sko/skoen/sko/skoene, jacket f jakke, dress m kjole,
    sweater m genser, skirt n skjørt, glove m hanske, scarf n skjerf, sock m sokk, boot m
    støvel/støvelen/støvler/støvlene, cap f lue, belt n belte, mitten m vott, bag f veske, tie n slips;
tool: hammer m hammer/hammeren/hammere/hammerne, saw f sag, knife/knives m kniv, axe f øks, spade m spade, needle f
    nål, rope n tau, bucket f bøtte, lamp f lampe, key m nøkkel/nøkkelen/nøkler/nøklene, spoon f
    skje/skjea/skjeer/skjeene, fork m gaffel/gaffelen/gafler/gaflene, broom m kost, ladder m stige, nail m
    spiker/spikeren/spikre/spikrene, brush m pensel/penselen/pensler/penslene, net n garn, screw m skrue, rake f
    rive;
furniture: table n bord, chair m stol, bed f seng, clock f klokke, mirror n speil, cupboard n skap, bench m benk,
    carpet n teppe, shelf/shelves f hylle, pillow f pute, sofa m sofa, stove m ovn, cup m kopp, plate m
    tallerken/tallerkenen/tallerkener/tallerknene, glass n glass, bottle f flaske, box m eske, basket f kurv,
    curtain f gardin, candle n lys;
vessel: boat m båt, ship n skip, ferry f ferje, raft m flåte, canoe m kano/kanoen/kanoer/kanoene, car m bil, bus m
    buss, train n tog, bicycle m sykkel/sykkelen/sykler/syklene, wagon f vogn, lorry m lastebil, plane n fly, sledge
    m slede, tractor m traktor;
plant: flower m blomst, tree n tre/treet/trær/trærne, rose f rose, birch f bjørk, pine f furu/furua/furuer/furuene,
    oak f eik, bush m busk, leaf/leaves n blad, branch f grein, fir f gran, fern m bregne, tulip m tulipan, root f
    rot/rota/røtter/røttene;
person: baker m baker, fisherman/fishermen m fisker, teacher m lærer, doctor m lege, sailor m
    sjømann/sjømannen/sjømenn/sjømennene, farmer m bonde/bonden/bønder/bøndene, painter m maler, priest m prest,
    nurse m sykepleier, tailor m skredder, cook m kokk, captain m kaptein, carpenter m snekker, postman/postmen n
    postbud, shopkeeper m kjøpmann/kjøpmannen/kjøpmenn/kjøpmennene, singer m sanger, guard m vakt, judge m dommer,
    writer m forfatter, smith m smed;
kin: man/men m mann/mannen/menn/mennene, woman/women f kvinne, boy m gutt, girl f jente, child/children n
    barn/barnet/barn/barna, mother f mor/mora/mødre/mødrene, father m far/faren/fedre/fedrene, brother m
    bror/broren/brødre/brødrene, sister f søster/søstera/søstre/søstrene, friend m venn/vennen/venner/vennene,
    neighbour m nabo/naboen/naboer/naboene, uncle m onkel/onkelen/onkler/onklene, aunt f tante;
writing: book f bok/boka/bøker/bøkene, letter n brev, newspaper f avis, map n kart, picture n bilde, song m sang,
    story f fortelling, list f liste, card n kort, poem n dikt, bill f regning, stamp n frimerke
"""

_PLACE_TABLE = """
house|in|n hus/huset|i; garden|in|m hage/hagen|i; harbour|in|f havn/havna|i; kitchen|in|n kjøkken/kjøkkenet|på;
school|at|m skole/skolen|på; church|in|f kirke/kirka|i; shop|in|m butikk/butikken|i; street|in|f gate/gata|i;
town|in|m by/byen|i; beach|on|f strand/stranda|på; bridge|on|f bru/brua|på; island|on|f øy/øya|på; quay|on|f
brygge/brygga|på; forest|in|m skog/skogen|i; mountain|on|n fjell/fjellet|på; farm|on|m gård/gården|på; barn|in|m
låve/låven|på; market|at|n torg/torget|på; cellar|in|m kjeller/kjelleren|i; library|at|n bibliotek/biblioteket|på;
bakery|in|n bakeri/bakeriet|i; valley|in|m dal/dalen|i; lake|by|n vann/vannet|ved; river|by|f elv/elva|ved; sea|by|m
sjø/sjøen|ved; station|at|m stasjon/stasjonen|på; hospital|at|n sykehus/sykehuset|på; museum|at|n museum/museet|på
"""


@dataclass(frozen=True)
class Place:
    """A definite place with its preposition in both languages."""

    name: str
    english: str  # "in the house"
    norwegian: str  # "i huset"


def _places() -> tuple[Place, ...]:
    places = []
    for entry in _PLACE_TABLE.replace("\n", " ").split(";"):
        name, preposition, forms, norwegian_preposition = entry.strip().split("|")
        definite = forms.split("/")[1]
        places.append(Place(name, f"{preposition} the {name}", f"{norwegian_preposition} {definite}"))
    return tuple(places)


_ADJECTIVE_TABLE = """
big stor stort store, small liten lite små, old gammel gammelt gamle, new ny nytt nye, young ung ungt unge, red rød
rødt røde, blue blå blått blå, green grønn grønt grønne, white hvit hvitt hvite, black svart svart svarte, yellow
gul gult gule, brown brun brunt brune, long lang langt lange, short kort kort korte, heavy tung tungt tunge, light
lett lett lette, warm varm varmt varme, cold kald kaldt kalde, clean ren rent rene, dirty skitten skittent skitne,
fine fin fint fine, ugly stygg stygt stygge, expensive dyr dyrt dyre, cheap billig billig billige, strong sterk
sterkt sterke, weak svak svakt svake, happy glad glad glade, kind snill snilt snille, angry sint sint sinte, tired
trøtt trøtt trøtte, quiet stille stille stille, thin tynn tynt tynne, thick tykk tykt tykke, broad bred bredt brede,
narrow smal smalt smale, wet våt vått våte, dry tørr tørt tørre, full full fullt fulle, empty tom tomt tomme, rich
rik rikt rike, poor fattig fattig fattige, round rund rundt runde
"""

_VERB_TABLE = """
buy buys bought kjøpe kjøper kjøpte animal food clothing tool furniture vessel plant writing, sell sells sold selge
selger solgte animal food clothing tool furniture vessel plant writing, see sees saw se ser så animal food clothing
tool furniture vessel plant writing person kin, find finds found finne finner fant animal food clothing tool
furniture plant writing, carry carries carried bære bærer bar animal food clothing tool furniture writing, wash
washes washed vaske vasker vasket clothing furniture vessel animal, paint paints painted male maler malte furniture
vessel animal plant, eat eats ate spise spiser spiste food, cook cooks cooked koke koker kokte food, read reads read
lese leser leste writing, write writes wrote skrive skriver skrev writing, love loves loved elske elsker elsket
animal food writing person kin, hate hates hated hate hater hatet food clothing, help helps helped hjelpe hjelper
hjalp person kin, know knows knew kjenne kjenner kjente person kin, follow follows followed følge følger fulgte
person kin animal, feed feeds fed mate mater matet animal, repair repairs repaired reparere reparerer reparerte
furniture vessel clothing, steal steals stole stjele stjeler stjal clothing food tool writing, wear wears wore bruke
bruker brukte clothing, hide hides hid gjemme gjemmer gjemte food tool writing clothing, lift lifts lifted løfte
løfter løftet furniture tool animal, drive drives drove kjøre kjører kjørte vessel, catch catches caught fange
fanger fanget animal, forget forgets forgot glemme glemmer glemte tool writing clothing, need needs needed trenge
trenger trengte tool clothing furniture food, miss misses missed savne savner savnet kin animal, visit visits
visited besøke besøker besøkte person kin, fetch fetches fetched hente henter hentet tool food furniture writing,
draw draws drew tegne tegner tegnet animal plant vessel furniture, sleep sleeps slept sove sover sov, sing sings
sang synge synger sang, dance dances danced danse danser danset, work works worked arbeide arbeider arbeidet, wait
waits waited vente venter ventet, laugh laughs laughed le ler lo, cry cries cried gråte gråter gråt, sit sits sat
sitte sitter satt, swim swims swam svømme svømmer svømte, run runs ran løpe løper løp
"""


def _verbs() -> tuple[Verb, ...]:
    verbs = []
    for entry in _VERB_TABLE.split(","):
        words = entry.split()
        verbs.append(Verb(*words[:6], tuple(words[6:])))
    return tuple(verbs)


NOUNS = _nouns()
PLACES = _places()
ADJECTIVES = tuple(Adjective(*entry.split()) for entry in _ADJECTIVE_TABLE.split(","))
VERBS = _verbs()
BY_CATEGORY = {name: tuple(n for n in NOUNS if n.category == name) for name in dict.fromkeys(n.category for n in NOUNS)}
THINGS = ("animal", "food", "clothing", "tool", "furniture", "vessel", "plant", "writing")

# What may be said of a noun of each category, so that sentences stay sensible.
FITTING = {
    "animal": "big small old young white black brown heavy happy tired quiet dirty strong weak wet",
    "food": "big small fine expensive cheap warm cold heavy round",
    "clothing": "big small old new red blue green white black yellow brown "
    "warm clean dirty wet dry ugly cheap expensive",
    "tool": "big small old new long short heavy light clean expensive cheap",
    "furniture": "big small old new red blue green white brown heavy clean ugly expensive",
    "vessel": "big small old new red blue green white black heavy expensive cheap ugly full empty",
    "plant": "big small old green yellow red white fine thin thick",
    "person": "old young happy kind angry tired rich poor strong quiet",
    "kin": "young happy kind angry tired strong quiet",
    "writing": "long short old new thin thick fine",
}
ADJECTIVE_BY_NAME = {adjective.english: adjective for adjective in ADJECTIVES}

OPPOSITES = """
big small, old new, long short, heavy light, warm cold, clean dirty, expensive cheap, strong weak, thin thick, broad
narrow, wet dry, full empty, rich poor, happy sad, early late, open closed, near far, fast slow, high low, loud
quiet, hard soft, left right, day night, summer winter, north south, east west, up down, first last, kind cruel,
sweet bitter, give take, come go, begin end, find lose, push pull, remember forget, love hate, always never, inside
outside, before after, above below, black white, more less
"""
OPPOSITE_PAIRS = tuple((pair.split()[0], pair.split()[1]) for pair in OPPOSITES.split(","))

NUMBERS = """
one two three four five six seven eight nine ten
eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty
""".split()
NORWEGIAN_NUMBERS = """
en to tre fire fem seks sju åtte ni ti elleve tolv tretten fjorten femten seksten sytten atten nitten tjue
""".split()

FIRST_NAMES = """
Anna Ole Kari Lars Ingrid Per Marit Nils Astrid Knut Berit Erik Solveig Jon Liv Arne Signe Odd Ragna Tor
Helga Einar Turid Magnus Randi Sverre Gerd Hans Eli Harald Bodil Leif Siri Gunnar Tone Rolf Hilde Olav Mari Trygve
""".split()
WOMEN = frozenset(
    """
Anna Kari Ingrid Marit Astrid Berit Solveig Liv Signe Ragna Helga Turid Randi Gerd Eli Bodil Siri Tone Hilde Mari
""".split()
)
SURNAMES = """
Berg Dahl Haug Lund Moen Vik Sand Strand Hagen Lie Nes Bakke Foss Holm Eide Solberg Myhre Krog Tangen Aune
""".split()
COLOURS = "red blue green white black yellow brown grey pink purple golden silver".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
STREETS = (
    "Quay Street", "Church Lane", "Mill Road", "Lighthouse Road", "Market Square",
    "Herring Lane", "School Street", "Harbour Hill", "Rope Walk", "Anchor Street",
)  # fmt: skip
PET_NAMES = """
Pepper Biscuit Snow Captain Moss Button Storm Honey Pebble Rusty Daisy Smoke Acorn Ginger Salt Thunder Maple Shadow
""".split()
BOAT_NAMES = (
    "Sea Rose", "North Star", "Morning Wind", "Grey Gull", "Silver Wave",
    "Old Anchor", "Blue Heron", "Winter Sun", "White Foam", "Little Whale",
)  # fmt: skip
