"""The word lists from which the corpus of the bundled base is generated."""


def listed(text: str) -> list[str]:
    """Split at white space."""
    return text.split()


FIRST_NAMES = listed(
    """
    Ada Agnes Alba Amir Anna Arno Asha Ben Bea Carl Cara Cleo Dan Dora Elif Elsa Emil Eva Finn
    Flora Gus Greta Hana Hugo Ida Igor Ines Ivan Jana Jean Joel June Kai Kira Lars Lea Leo
    Lina Luis Mara Marco Maya Mila Mina Nadia Nils Nina Noor Olaf Omar Otto Paul Petra Priya
    Rafa Rita Rosa Sam Sara Sven Tara Theo Tom Uma Vera Viktor Wanda Will Yara Yusuf Zoe Maria
    James Linda Peter Grace Henry Alice Oscar Julia Simon Helen David Laura Martin Sofia
    Thomas Emma Lucas Clara Daniel
    """
)
LAST_NAMES = listed(
    """
    Abel Adler Bauer Becker Bell Berg Blum Brook Carver Costa Cruz Dale Diaz Dunn Ek Fell
    Field Fox Garcia Gray Green Haas Hall Hart Holm Hunt Ito Jansen Kaya Keller Khan King
    Klein Koch Kovac Lane Larsen Lee Lopez Lund Marsh Meyer Mills Moreau Moss Nagy Novak
    Okafor Olsen Park Patel Petit Quinn Ramos Reed Rossi Roth Sato Shah Silva Singh Smith
    Stone Tan Taylor Toth Vogel Walsh Ward Weber West White Wolf Wood Young Zhou
    """
)
CITIES = listed(
    """
    Arden Basel Bergen Berlin Bilbao Boston Bristol Brno Cairo Calder Cork Dakar Delhi Denver
    Dover Dublin Exeter Faro Geneva Ghent Graz Halle Hanoi Izmir Kyiv Lagos Leeds Lima Linz
    Lisbon Lyon Madrid Malmo Milan Nairobi Naples Nice Osaka Oslo Oxford Paris Porto Prague
    Quito Riga Rome Seoul Sofia Split Tampa Turin Utrecht Vienna Vigo Warsaw York Zagreb
    Zurich
    """
)
COMPANIES = listed(
    """
    Alder Amber Anchor Aspen Atlas Beacon Birch Bolt Brightway Cedar Cinder Clover Cobalt
    Copper Corvin Crest Delta Ember Falcon Fennel Fjord Garnet Harbor Hazel Heron Indigo
    Juniper Keystone Lantern Linden Lumen Maple Meridian Mosaic Nimbus Norvia Nova Oakline
    Onyx Opal Orchard Pebble Pine Quartz Raven Ridge Saffron Sable Summit Talon Tidal Topaz
    Umber Vantage Vireo Willow Zephyr
    """
)
PRODUCTS = """desk lamp|coffee grinder|water bottle|office chair|rain jacket|running shoes
garden hose|phone case|laptop stand|wireless mouse|keyboard|headphones|backpack
tea kettle|frying pan|wall clock|bookshelf|yoga mat|tent|sleeping bag
bike helmet|toaster|blender|vacuum cleaner|air filter|monitor|printer|webcam
speaker|charger|power bank|smart watch|camera|tripod|suitcase|umbrella|scarf
wool hat|leather belt|picture frame|candle set|bath towel|bed sheet|pillow
blanket|carpet|mirror|plant pot|tool box|cordless drill|step ladder|paint set
board game|puzzle|toy train|doll house|baby monitor|stroller|dog bed|cat tree
fish tank|bird feeder|lunch box|knife set|baking tray|mixing bowl|juicer
rice cooker|wine rack|router|hard drive|memory card|desk fan|heater|gift card
notebook|fountain pen|electric kettle|table lamp|standing desk|hiking boots
swim goggles|tennis racket|guitar strings"""
PRODUCT_LIST = [p.strip() for line in PRODUCTS.split("\n") for p in line.split("|") if p.strip()]
MONTHS = listed(
    """
    January February March April May June July August September October November December
    """
)
WEEKDAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
COLOURS = listed("red blue green yellow black white brown grey pink purple orange silver golden")
ANIMALS = listed(
    """
    ant bear bee bird cat cow crow deer dog dolphin donkey duck eagle fish fly fox frog goat
    goose hare hen horse lion lizard mole mouse otter owl ox pig rabbit rat seal sheep snake
    spider swan tiger toad turtle whale wolf worm zebra
    """
)
FOODS = listed(
    """
    apple apricot bagel banana bean beer berry bread butter cabbage cake carrot cheese cherry
    chicken coffee corn cream egg fig fish garlic ginger grape honey jam juice leek lemon lime
    melon milk mint mushroom noodle nut oat olive onion orange pasta pea peach pear pepper pie
    plum potato rice salad salt sauce soup spinach sugar tea tomato water wheat wine yogurt
    """
)
PLACES = listed(
    """
    airport bakery bank barn beach bridge cafe castle cave church cinema city clinic farm
    field forest garden gate harbour hill hospital hotel house island kitchen lake library
    market meadow mill mountain museum office park pond port river road school shop square
    stable station street theatre tower town valley village wood workshop yard
    """
)
THINGS = listed(
    """
    bag ball basket bell boat book bottle bowl box brush bucket candle card chain chair clock
    coat coin cup door drum engine feather flag flute glass hammer hat jar key kite knife
    ladder lamp leaf letter map mirror nail needle net paper pen pencil picture pipe plate pot
    radio ring rope saw seed shell shirt shoe spoon stick stone table ticket tool toy tree
    truck wagon wheel whistle window wire
    """
)
JOBS = listed(
    """
    actor artist author baker barber builder captain carpenter chef clerk coach cook dancer
    dentist doctor driver editor engineer farmer fisher gardener guard guide hunter judge
    lawyer manager mason mayor miller miner musician nurse painter pilot plumber poet potter
    sailor scientist singer soldier student tailor teacher waiter weaver writer
    """
)
ADJECTIVES = listed(
    """
    angry bold brave bright broken busy calm careful cheap clean clever cold cool cosy dark
    deep dry early easy empty fair fast fine fresh full funny gentle glad good great happy
    hard heavy high honest hot huge kind large late lazy light little long loud lucky narrow
    neat new nice noisy odd old open plain polite poor proud quick quiet rare ready rich round
    rough sad safe sharp shiny short shy silent simple slow small smart smooth soft strange
    strong sunny sweet tall thin tidy tiny tired warm weak wet wide wild wise young
    """
)
ADVERBS = listed(
    """
    slowly quickly quietly often always never gladly carefully early late again twice alone
    together soon today yesterday outside upstairs nearby happily sadly calmly loudly
    """
)
VERBS_PAST = listed(
    """
    carried found lost bought sold painted cleaned repaired opened closed watched moved
    followed dropped kept hid showed brought threw caught washed counted drew borrowed
    returned broke built made wanted needed used took lifted pulled pushed liked forgot
    remembered described polished
    """
)
VERBS_BASE = listed(
    """
    add ask begin bring build call carry change choose clean close cook count cut draw drink
    drive eat find finish fix give go grow help hold keep know learn leave like listen look
    make meet move need open pay play pull push put read return ride run say see sell send
    show sing sit sleep speak start stop swim take talk teach tell think travel try turn use
    wait walk want wash watch work write
    """
)
PLAIN_WORDS = listed(
    """
    able about above across after again against agree air all almost also although among
    amount and another answer any area arm around as at away back because become before behind
    believe below best better between beyond body both brief broad case cause centre certain
    chance child choice class clear close cloud colour common complete condition consider
    contain continue control copy corner correct cost country couple course cover cross
    current customer daily danger date day deal decide degree delay detail differ direct
    discuss distance double doubt during each earth edge effect effort either else end enough
    entire error even event every exact example except expect explain express extra eye face
    fact fair fall family far feel few figure fill final first floor follow force form former
    forward free friend from front future general glass goal ground group grow guess half hand
    happen head hear heart history hour hundred idea important include increase inside instead
    interest issue item join just kind land language large last law lead learn least left less
    level life limit line list local low machine main major many mark matter maybe mean
    measure member method middle mind minute mistake model modern moment money month morning
    most much music name nation nature near necessary never next night noise none normal north
    note nothing notice number object offer often once only order other outside over own page
    pain pair part party pass past pattern peace people perhaps period person piece plan point
    policy position possible power present press pretty problem process produce program
    project promise proof property provide public purpose quality question range rate rather
    reach real reason record region report require rest result right rise role room rule same
    scale science score season second section sense separate series serious service set
    several shape share side sign since single size skill sky small social society some sound
    source south space special spread stage standard state step still story street strength
    such sudden suggest sum summer support sure surface system task term test than thank their
    then theory there these thick thing third though thousand through time together total
    touch toward track trade train true trust truth turn type under unit until upon usual
    value various very view voice volume wall war week weight well while whole why winter
    within without woman wonder word world worth wrong year yes yet
    """
)
COUNTRY_CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Spain": "Madrid", "Italy": "Rome",
    "Portugal": "Lisbon",
    "Austria": "Vienna", "Poland": "Warsaw", "Norway": "Oslo", "Sweden": "Stockholm",
    "Denmark": "Copenhagen", "Finland": "Helsinki", "Greece": "Athens", "Turkey": "Ankara",
    "Egypt": "Cairo", "Kenya": "Nairobi", "Japan": "Tokyo", "China": "Beijing",
    "India": "New Delhi",
    "Canada": "Ottawa", "Peru": "Lima", "Chile": "Santiago", "Ireland": "Dublin",
    "Hungary": "Budapest",
    "Belgium": "Brussels", "Croatia": "Zagreb", "Latvia": "Riga", "Cuba": "Havana",
    "Iran": "Tehran",
}  # fmt: skip
OPPOSITES = """hot cold|big small|tall short|old new|fast slow|light dark|happy sad|rich poor
early late|open closed|full empty|hard soft|wet dry|high low|long short
loud quiet|clean dirty|strong weak|near far|up down|left right|first last
day night|true false|safe dangerous|cheap expensive|thick thin|wide narrow
deep shallow|sharp blunt|sweet sour|good bad|right wrong|inside outside
begin end"""
OPPOSITE_PAIRS = [
    (pair.split()[0], pair.split()[1]) for line in OPPOSITES.split("\n") for pair in line.split("|")
]
CATEGORIES = {
    "animal": ANIMALS, "food": FOODS, "colour": COLOURS, "place": PLACES, "job": JOBS,
    "thing": THINGS,
}  # fmt: skip
NUMBER_WORDS = listed(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen twenty
    """
)
