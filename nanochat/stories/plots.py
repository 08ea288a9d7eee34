"""What the stories say: one description from which they are written, judged, weighed and asked about.

GRAMMAR maps each rule to its variants, all equally likely. In a variant,

    <rule>          is replaced by one of that rule's variants
    [a|b|c]         is one of these, equally likely
    {ANIMALS}       draws a word from that list of words.py and forgets it
    {hero:GIRLS}    draws a word and remembers it as the hero
    {hero}          is that word again
    {hero.he}       is the pronoun that fits: he or she; also him, his, and He, His
    {a+b-c}         is the number that comes out, as a word
    {winner=hero}   writes nothing and lets another name stand for the same word

Whatever is drawn is drawn where it first stands, from left to right, and every draw leaves a word in the text. So the
text shows each choice, and its probability is the product of what its choices cost.

Every story ends with a sentence of a rule that is called ..._end. These sentences, and no others, begin with one of
ENDINGS: no story is the beginning of another, so "this text and then the end" is as likely as "this text".
"""

ENDINGS = ("That night,", "In the end,", "From that day on,", "At bedtime,")

GRAMMAR: dict[str, list[str]] = {
    "story": [
        "<opening> <lost>",
        "<opening> <share>",
        "<opening> <trade>",
        "<opening> <contest>",
        "<opening> <build>",
        "<opening> <pet>",
    ],
    # What all plots share.
    "opening": ["<when> a {TRAITS} <hero> went to the {place:PLACES}."],
    "when": ["One {weather:WEATHER} [morning|evening],", "[Yesterday|Last week|Long ago],"],
    "hero": ["girl named {hero:GIRLS}", "boy named {hero:BOYS}"],
    "meet": ["At the {place} {hero.he} met {hero.his} <kin>.", "{hero.His} <kin> came to the {place} too."],
    "kin": [
        "[friend|cousin|neighbor] <friend>",
        "[aunt|sister|grandmother] {friend:WOMEN}",
        "[uncle|brother|grandfather] {friend:MEN}",
    ],
    "friend": ["{friend:WOMEN}", "{friend:MEN}"],
    "thing": ["{hero.He} had a {LOOKS} {color:COLORS} {thing:THINGS}."],
    "where": ["[under|behind|near] the {spot:SPOTS}"],
    "fun": ["Then they ate {FOODS}.", "Then they played {GAMES}.", "Then they sang about the {SKY}."],
    # The hero loses a thing, and the friend finds it.
    "lost": ["<thing> <lost_1> <meet> <lost_2> <lost_3> <fun> <lost_end>"],
    "lost_1": [
        "Soon the {thing} was gone, and {hero}{owner=hero} felt {SAD}.",
        "But {hero}{owner=hero} lost the {thing} and felt {SAD}.",
    ],
    "lost_2": [
        "{friend}{finder=friend} found the {thing} <where>.",
        "{friend}{finder=friend} saw that a {thief:ANIMALS} had the {thing}.",
    ],
    "lost_3": ['"Here is your {thing}," said {friend} {ADVERBS}.'],
    "lost_end": [
        "That night, {hero} kept the {thing} and dreamed of {DREAMS}.",
        "From that day on, {hero} never took the {thing} to the {place}.",
    ],
    # The two gather things, add them up and give some away.
    "share": ["<meet> <share_1> <share_2> <share_3> <share_4> <share_end>"],
    "share_1": ["{hero} found {a:SMALL} {goods:GOODS}, and {friend} found {b:SMALL}."],
    "share_2": [
        '"Now we have {a+b} {goods}," said {friend} {ADVERBS}.',
        "Together they had {a+b} {goods} and felt {GLAD}.",
    ],
    "share_3": ["A {TRAITS} {guest:ANIMALS} came by, so they gave it {c:FEW}."],
    "share_4": ["It {DEEDS}, and {a+b-c} {goods} were left."],
    "share_end": [
        "In the end, {hero} took {a+b-c} {goods} home from the {place}.",
        "That night, {hero} put {a+b-c} {goods} in a {LOOKS} {COLORS} {BAGS}.",
    ],
    # Each gives away what the other likes.
    "trade": ["<thing> <meet> <trade_1> <trade_2> <trade_3> <trade_4> <trade_end>"],
    "trade_1": ["{friend} wore a {LOOKS} {shade:COLORS} {wear:CLOTHES}."],
    "trade_2": ['"I like your {wear}," said {hero} {ADVERBS}.'],
    "trade_3": ['"I like your {thing}," said {friend} {ADVERBS}.'],
    "trade_4": [
        "So {hero} gave {friend}{taker=friend} the {thing} and got the {wear}.",
        "So {friend}{taker=friend} gave {hero} the {wear} and got the {thing}.",
    ],
    "trade_end": [
        "At bedtime, {hero} wore the {wear}, and {friend} held the {thing}.",
        "In the end, {friend} took the {thing} home from the {place}.",
    ],
    # Who finds more wins the prize.
    "contest": ["<meet> <contest_1> <contest_2> <contest_3> <contest_4> <fun> <contest_end>"],
    "contest_1": ["A {job:JOBS} asked them to find many {goods:GOODS}."],
    "contest_2": [
        "{hero} found {hi:HIGH}{winner=hero}{loser=friend} {goods}, but {friend} found {lo:LOW}.",
        "{hero} found {lo:LOW}{winner=friend}{loser=hero} {goods}, but {friend} found {hi:HIGH}.",
    ],
    "contest_3": [
        "So {winner} won by {hi-lo} and felt {GLAD}.",
        "So {winner} won by {hi-lo}, and {loser} clapped {ADVERBS}.",
    ],
    "contest_4": ["The prize was a {LOOKS} {color:COLORS} {thing:THINGS}."],
    "contest_end": [
        "That night, {winner} kept the {thing} and dreamed of {DREAMS}.",
        "In the end, {winner} took the {thing} home from the {place}.",
    ],
    # Something is built for the friend.
    "build": ["<meet> <build_1> <build_2> <build_3> <build_4> <fun> <build_end>"],
    "build_1": ["{hero}{builder=hero} wanted to build {friend} a {LOOKS} {shade:COLORS} {build:BUILDS}."],
    "build_2": ["{hero.He} had {a:SMALL} {parts:PARTS} and bought {b:SMALL} more."],
    "build_3": ["With {a+b} {parts} and a {tool:TOOLS} {hero.he} began."],
    "build_4": ["Soon the {build} was ready, and {friend} felt {GLAD}."],
    "build_end": [
        "In the end, {friend}'s {build} stood at the {place}.",
        "From that day on, {friend} had a {build} with {a+b} {parts}.",
    ],
    # A pet runs away and comes back.
    "pet": ["<pet_1> <pet_2> <pet_3> <meet> <pet_4> <pet_5> <pet_end>"],
    "pet_1": ["{hero.He} had a {TRAITS} {animal:PETS} named {pet:PETNAMES}."],
    "pet_2": ["But {pet} saw a {ANIMALS} and ran away.", "But {pet} hid <where>, and {hero} felt {SAD}."],
    "pet_3": ['"Where are you, {pet}?" asked {hero} {ADVERBS}.'],
    "pet_4": ["{friend} had some {food:SNACKS} for {pet}."],
    "pet_5": ["Soon {pet} smelled the {food} and {DEEDS}."],
    "pet_end": [
        "At bedtime, {hero} gave {pet} the {food} and dreamed of {DREAMS}.",
        "In the end, {hero} and {pet} left the {place} with {friend}.",
    ],
}

# A question belongs to a story that remembers every name in it. Names that a plot gives to its people with {x=y}, such
# as the finder, make sure that nobody is asked who found what was never lost.
QUESTIONS: tuple[tuple[str, str], ...] = (
    ("Who went to the {place}?", "{hero} did."),
    ("Where did {hero} go?", "{hero} went to the {place}."),
    ("What was the weather like?", "It was {weather}."),
    ("Who lost the {thing}?", "{owner} lost the {thing}."),
    ("Who found the {thing}?", "{finder} found the {thing}."),
    ("Who had the {thing} when {finder} saw it?", "A {thief} had it."),
    ("Who came to the {place} too?", "{friend} came."),
    ("What color was the {thing}?", "The {thing} was {color}."),
    ("How many {goods} did they have together?", "They had {a+b} {goods}."),
    ("How many {goods} did they have in the end?", "They had {a+b-c} {goods}."),
    ("Who got {c} of the {goods}?", "The {guest} did."),
    ("Who got the {thing}?", "{taker} got the {thing}."),
    ("Who got the {wear}?", "{hero} got the {wear}."),
    ("What color was the {wear}?", "The {wear} was {shade}."),
    ("Who won the contest?", "{winner} won by {hi-lo}."),
    ("Who lost the contest?", "{loser} did."),
    ("What did {winner} win?", "{winner} won a {color} {thing}."),
    ("What did {builder} build?", "{builder} built a {shade} {build}."),
    ("Who was the {build} for?", "It was for {friend}."),
    ("What tool did {builder} use?", "{builder} used a {tool}."),
    ("How many {parts} did {builder} need?", "{builder} needed {a+b} {parts}."),
    ("Who asked for the {goods}?", "A {job} did."),
    ("What was the name of the {animal}?", "It was {pet}."),
    ("What did {pet} smell?", "{pet} smelled the {food}."),
)
