"""The words of the stories: one list for each kind of word, the common ones first.

A list is one string: the common words, a bar, the rare ones. The common words are drawn with weights that fall slowly,
like 1 / (place + 8). All the rare ones together are drawn RARE times in a hundred. So nearly every sentence is made of
a few hundred words that a learner meets again and again, and there are over a thousand more: as in any language, most
of the words are rare, and most of the text is common ones.

Two rules keep the stories readable and their derivations unambiguous. Words that may follow "a" begin with a
consonant sound. Lists that can stand at the same place of a sentence share no word (a test checks the whole grammar).
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)

RARE = 1  # percent of the draws from a list that give one of its rare words


@dataclass(frozen=True)
class WordList:
    """Words with whole-number weights, drawn with probability weight / total."""

    name: str  # as templates write it, in capitals
    common: tuple[str, ...]
    rare: tuple[str, ...]
    kind: str  # lists of one kind may stand for each other in a story of the right shape
    sex: str = ""  # "f" or "m" for people, whom pronouns follow

    @cached_property
    def weights(self) -> dict[str, int]:
        """word -> weight."""
        weights = {word: 100_000 // (place + 8) for place, word in enumerate(self.common)}
        if self.rare:
            each = sum(weights.values()) * RARE // ((100 - RARE) * len(self.rare))
            weights |= dict.fromkeys(self.rare, each)
        return weights

    @cached_property
    def words(self) -> tuple[str, ...]:
        """All of them, the common ones first."""
        return tuple(self.weights)

    @cached_property
    def cumulative(self) -> list[int]:
        """Sum of the weights up to and including each word."""
        return list(accumulate(self.weights.values()))

    @property
    def total(self) -> int:
        """Sum of all weights."""
        return self.cumulative[-1]


def _list(name: str, words: str, kind: str | None = None, sex: str = "") -> WordList:
    common, _, rare = words.partition("|")
    return WordList(name, tuple(common.split()), tuple(rare.split()), kind or name.lower(), sex)


_ALL = (
    # People and pets. Who begins a story and who joins it never share a name.
    _list(
        "GIRLS",
        """Mia Lily Anna Emma Sara Ruby Nora Ella Lucy Zoe Rosa Ivy Clara Maya | Luna Jane Kate Amy Eva Leah Nina
        Alice Molly Daisy Hazel Tina Holly Polly Vera Wendy Iris Gina Fay Greta Heidi Ada""",
        kind="name",
        sex="f",
    ),
    _list(
        "BOYS",
        """Tom Ben Max Sam Leo Jack Finn Noah Adam Luke Oscar Henry Paul Peter | Hugo Felix Toby Owen Ian Eric David
        Simon Ned Gus Theo Kurt Rick Omar Ivan Dan Tim Joe Bob Carl Jim Walt""",
        kind="name",
        sex="m",
    ),
    _list(
        "WOMEN",
        """Rose Grace Pearl Helen Martha Judy Susan Laura Betty Nancy Carol Joan | Ruth Sophie Julia Flora Diana
        Olga Linda Paula Sally Tess Agnes Edith Donna Karin Wilma Marta""",
        kind="name",
        sex="f",
    ),
    _list(
        "MEN",
        """George Frank Otto Bill Fred Ralph Karl Louis Martin Albert Victor Walter | Stan Hank Oliver Pedro Roger
        Steve Edgar Arthur Bruno Conrad Dennis Emil Gilbert Howard Norman Harold""",
        kind="name",
        sex="m",
    ),
    _list(
        "PETNAMES",
        """Rex Fluffy Biscuit Pepper Rusty Ginger Buddy Socks | Shadow Sparky Patches Mittens Pickles Muffin Bingo
        Coco Fudge Waffles Domino Snowball Peanut Ziggy Bandit Whiskers Smoky Noodle""",
        kind="petname",
    ),
    _list("PETS", "dog cat rabbit puppy kitten | pony goat lamb hamster parrot", kind="animals"),
    # Numbers, as words.
    _list("SMALL", "two three four five", kind="number"),
    _list("FEW", "one two", kind="number"),
    _list("HIGH", "six seven eight", kind="number"),
    _list("LOW", "two three", kind="number"),
    # What a story must remember.
    _list(
        "PLACES",
        """park beach lake market farm river garden castle harbor school library mill | bridge museum station zoo
        fair bakery orchard barn pond tower playground circus theater dock stable windmill lighthouse
        campsite canal quarry vineyard plaza chapel temple greenhouse pier workshop bookshop cafe arena
        stadium airport palace shipyard""",
    ),
    _list(
        "THINGS",
        """kite drum doll ball whistle flute bell puppet lantern mirror compass robot map key | camera clock watch
        fiddle guitar trumpet violin banjo harp magnet telescope balloon brush puzzle globe locket
        bracelet necklace medal crown wand teapot vase pillow blanket candle paddle pinwheel kazoo
        tambourine rattle spinner postcard notebook pencil crayon ribbon feather shell skateboard scooter
        frisbee racket horn mask thimble diary badge calendar rocket yoyo figurine jigsaw""",
        kind="thing",
    ),
    _list(
        "CLOTHES",
        """hat scarf coat cap shirt dress jacket sweater | cape belt vest skirt bonnet hood cloak robe poncho sash
        shawl beret helmet raincoat cardigan tunic apron blouse pullover headband veil wig sombrero
        kimono turban""",
    ),
    _list(
        "COLORS",
        """red blue green yellow white black brown pink | purple golden silver gray violet tan scarlet turquoise
        crimson teal maroon beige navy coral lilac""",
    ),
    _list(
        "GOODS",
        """apples shells stones flowers nuts pears leaves feathers acorns buttons beads marbles | eggs plums peaches
        pebbles pinecones daisies tulips roses stickers cards ribbons chestnuts sticks bottles jars bells
        candles corks balloons cupcakes tickets stamps keys spoons cups plates books pencils crayons
        magnets gems crystals fossils dominoes tokens badges puppets postcards""",
    ),
    _list(
        "BUILDS",
        """boat raft sled swing hut birdhouse treehouse cart | kennel dollhouse bookshelf wagon bench doghouse
        ladder cradle stool henhouse seesaw stage fort gate crib sleigh canoe""",
    ),
    _list(
        "TOOLS",
        """hammer drill wrench shovel rope | chisel screwdriver winch ruler knife clamp spade rake file mallet
        hatchet crowbar sander trowel pulley""",
    ),
    _list(
        "PARTS",
        """boards nails planks bricks logs screws | poles wheels hooks ropes tiles bolts beams hinges pegs rods
        panels pipes blocks springs shingles brackets""",
    ),
    _list(
        "JOBS",
        """baker farmer teacher miller sailor painter tailor gardener butcher barber | carpenter plumber doctor
        nurse dentist pilot driver captain shepherd weaver potter jeweler banker clerk cook chef waiter
        singer dancer juggler clown magician poet writer reporter printer builder mason roofer welder
        mechanic mayor judge lawyer soldier guard knight librarian postman firefighter beekeeper
        blacksmith cobbler goldsmith merchant peddler ranger hunter wizard king queen tinker""",
    ),
    # What stands once and is forgotten.
    _list(
        "WEATHER",
        """sunny rainy windy cloudy foggy snowy stormy warm | cold hot chilly frosty misty bright clear dry wet
        breezy icy cool mild hazy humid freezing muggy calm lovely beautiful crisp fine drizzly gusty
        balmy blustery damp dim dreary gloomy murky scorching soggy steamy wintry blazing""",
    ),
    _list(
        "TRAITS",
        """little young brave kind clever shy happy curious cheerful friendly gentle bold quiet lively merry polite
        | helpful careful playful smart sleepy hungry funny silly patient generous thoughtful busy lonely
        proud tidy messy sporty loyal fearless daring witty wise wild chatty cheeky jolly joyful talented
        determined devoted faithful forgetful fortunate graceful grateful hopeful humble keen loving
        modest nimble nosy peaceful perky plucky popular practical quick reliable respectful restless
        serious sensible sincere skillful spirited steady stubborn sweet tender tireless truthful bashful
        fussy grumpy nervous cautious creative dreamy gifted hardworking noble sleepless sunburned gangly
        barefoot bearded chubby curly dimpled freckled lanky longhaired nearsighted rosy slow speedy
        stocky suntanned tanned bossy bubbly carefree charitable confident courageous dependable dutiful
        fiery fleet frugal genial giggly gloved good grinning handsome hasty hearty heroic hooded joking
        kindhearted lefthanded likable lucky mannerly masked mellow moody musing mild methodical""",
    ),
    _list(
        "LOOKS",
        """tiny shiny small big pretty new round soft smooth wooden fancy nice strange rare plain dusty striped
        magic long heavy | simple glossy painted spotted dotted checkered polished battered dented
        scratched faded rusty worn patched borrowed handmade homemade secret mysterious cute charming
        delicate dainty fragile sturdy strong solid light huge giant massive mighty tall short thin thick
        wide narrow flat curved crooked twisted square pointed blunt jagged bumpy rough fuzzy furry silky
        velvet woolly leather cotton paper plastic metal copper brass bronze tin steel stone marble glass
        crystal jeweled gilded sparkling glittering gleaming glowing shimmering twinkling dazzling
        radiant brilliant dull dark pale colorful speckled flowery frilly lacy ruffled knotted woven
        knitted stitched carved molded folded squeaky noisy musical famous royal grand splendid superb
        perfect special precious priceless cheap costly valuable treasured beloved favorite foreign
        modern vintage rustic classic historic weird peculiar bizarre surprising wonderful marvelous
        fantastic fabulous gorgeous stunning chunky clumsy wobbly bouncy floppy slender slim sleek hollow
        sticky scented fragrant clean spotless muddy sandy dirty greasy chipped cracked torn tattered
        ragged shabby wrinkled crumpled bent mended prized legendary lucky cozy fresh jumbo neat quaint
        trusty nifty handy useful""",
    ),
    _list(
        "SAD",
        """sad worried upset sorry afraid unhappy | gloomy awful terrible miserable helpless tearful heartbroken
        troubled puzzled confused uneasy shocked scared frightened hopeless glum tense weary dismayed
        disappointed alarmed discouraged empty anxious""",
    ),
    _list(
        "GLAD",
        """happy glad proud pleased thankful delighted merry excited | thrilled content relieved lucky overjoyed
        blissful elated amazed charmed amused tickled satisfied great loved rested refreshed inspired
        triumphant ecstatic gleeful giddy honored""",
    ),
    _list(
        "ADVERBS",
        """softly kindly happily quietly loudly gently slowly quickly warmly proudly calmly bravely cheerfully
        politely | sweetly gladly brightly shyly merrily eagerly wisely boldly firmly clearly simply
        suddenly finally patiently tenderly playfully honestly seriously hopefully gratefully
        thoughtfully excitedly nervously sleepily dreamily cleverly modestly briskly hastily promptly
        gravely earnestly fondly lovingly joyfully gleefully jokingly teasingly breathlessly hoarsely
        squeakily solemnly sincerely generously faithfully courteously graciously casually carefully
        cautiously curiously timidly triumphantly confidently absently abruptly amiably ardently
        awkwardly blankly bluntly charmingly coolly coyly crisply dryly dutifully drowsily evenly feebly
        fiercely frankly gallantly grandly gruffly heartily hotly humbly innocently jovially justly
        keenly lightly longingly mildly meekly mysteriously neatly numbly obediently openly plainly""",
    ),
    _list(
        "ANIMALS",
        """fox duck bird frog mouse squirrel horse cow pig hen sheep turtle beaver deer | bear wolf hedgehog mole
        rat pigeon crow robin sparrow swan goose seagull pelican penguin peacock rooster turkey donkey
        camel zebra giraffe lion tiger leopard monkey gorilla panda koala kangaroo raccoon skunk badger
        weasel ferret chipmunk bat lizard gecko snake snail worm spider bee butterfly beetle cricket
        grasshopper ladybug moth dragonfly firefly crab lobster dolphin whale seal walrus shark salmon
        trout toad newt tadpole hawk falcon vulture raven magpie lark wren finch canary cuckoo woodpecker
        stork heron flamingo quail pheasant llama buffalo bison reindeer moose jackal hyena lynx panther
        cheetah puma baboon lemur sloth tapir hippo rhino mongoose meerkat""",
    ),
    _list(
        "DEEDS",
        """watched waited yawned slept jumped danced hopped rested blinked stared stretched sneezed sniffed hid |
        peeked played wandered scurried snored nodded rolled wiggled grinned hummed listened stood sat
        trembled shivered lingered crouched napped dozed munched nibbled snacked chewed coughed squeaked
        growled grumbled twirled spun skipped strolled marched paced crept tiptoed waddled limped raced
        leaped bounced tumbled slid climbed paused vanished appeared smiled laughed waved winked bowed""",
    ),
    _list(
        "SPOTS",
        """tree bush rock fence wall door table chair hedge log | stump barrel box haystack well statue tent cabin
        shed fountain mailbox oak pine willow maple elm birch cedar palm fern rosebush thicket boulder
        cave stairs porch window chimney pillar arch curtain cupboard shelf sofa bed rug stove oven
        kettle piano desk counter cannon anchor tractor truck van bus trailer bicycle wheelbarrow
        scarecrow beehive nest burrow signpost lamppost crate trough""",
    ),
    _list(
        "FOODS",
        """bread cheese soup cake pie rice noodles honey jam toast pancakes cookies | muffins salad stew chili pizza
        tacos sandwiches sausages porridge oatmeal cereal yogurt pudding custard popcorn pretzels
        crackers chips peanuts almonds walnuts raisins dates figs chocolate candy caramel toffee licorice
        gingerbread doughnuts bagels biscuits scones croissants dumplings ravioli spaghetti lasagna
        meatballs burgers steak ham bacon chicken fish tuna shrimp sushi curry beans lentils peas corn
        carrots potatoes fries mushrooms tomatoes cucumbers olives onions spinach cabbage broccoli
        pumpkin squash celery radishes beets turnips melon grapes cherries berries blueberries
        raspberries strawberries apricots mangoes coconut pineapple bananas oranges lemons""",
    ),
    _list("SNACKS", "milk meat grass hay | oats lettuce fruit seeds crumbs butter", kind="foods"),
    _list(
        "BAGS",
        """bag basket pocket purse sack pouch | bucket chest case trunk suitcase backpack satchel wallet bowl pot
        tub pail hamper jug""",
    ),
    _list(
        "GAMES",
        """tag chess checkers soccer tennis | hopscotch darts baseball football volleyball hockey golf charades
        skittles badminton leapfrog basketball croquet cricket poker bingo dominoes catch rugby billiards""",
    ),
    _list(
        "SKY",
        """moon sun stars sea rain snow | wind ocean sky clouds mountains desert jungle rainbow thunder forest hills
        valley island spring summer winter sunrise sunset storm waves meadow stream planets night""",
    ),
    _list(
        "DREAMS",
        """dragons pirates castles rockets giants fairies unicorns mermaids | wizards ghosts robots astronauts kings
        queens princes knights witches elves dwarfs monsters dinosaurs tigers lions elephants whales
        comets treasure islands trains ships parades kittens puppies ponies penguins snowmen rainbows
        picnics holidays fireworks cowboys explorers acrobats inventors heroes genies trolls goblins
        phoenixes volcanoes""",
    ),
)

WORD_LISTS = {words.name: words for words in _ALL}
