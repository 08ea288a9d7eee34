"""The words that spelling and counting use where no list is given: common English words of three to nine letters."""

_TEXT = """
able about above across act add afraid after again age ago air all almost alone along already also always among and
angry animal answer ant any apple april arm around arrive art ask asleep autumn away baby back bad bag bake ball
banana band bank bark barn basket bath beach bean bear beat bed bee before begin behind believe bell below belt bench
bend beside best better big bike bird bite black blanket blow blue board boat body bone book boot born both bottle
bottom bowl box boy branch brave bread break breath brick bridge bright bring broken broom brother brown brush bubble
bucket build burn bus bush busy butter button buy cabin cake call calm camel camp can candle cap car card care carpet
carrot carry cart castle cat catch cave chair chalk change chase cheap cheese cherry chicken child choose circle city
clap class clean clear clever climb clock close cloth cloud clown coat coin cold color come cook cookie cool corn
corner count country cousin cover cow crab crayon cream creek cross crow crown cry cup curious curtain cut dad dance
danger dark daughter day dear deep deer desk dig dinner dirt dish dive dog doll door dough down dragon draw dream
dress drink drive drop drum dry duck dust each eager eagle ear early earth east easy eat echo edge egg eight elbow
empty end engine enjoy enough evening ever every eye face fair fall family fancy far farm farmer fast father feather
feed feel fence fern fetch few field fight fill find finger finish fire first fish five fix flag flame flat float
floor flour flower fly fold follow food foot forest forget fork found four fox free fresh friend frog front frost
fruit full funny fur game garden gate gather gentle giant gift giraffe girl give glad glass glove glue goat gold good
goose grape grass gray great green ground group grow guess guest hair half hammer hand happen happy hard hat hay head
hear heart heavy helmet help hen here hide high hill hold hole holiday home honey hope horn horse hot hotel hour house
hug hundred hungry hurry ice idea inside island itch jacket jam jar jelly job join joke journey juice july jump june
jungle just keep kettle key kick kind king kitchen kite kitten knee knife knock know ladder lady lake lamb lamp land
large last late laugh leaf lean learn leave left leg lemon lend less letter library lid life lift light like lion lip
list listen little live lizard lonely long look lose lost lot loud love low lucky lunch magic make man many map march
market match may maybe meadow meal mean meat meet melon melt mend merry middle milk mill mine mirror miss mitten mix
money monkey month moon more morning moss most mother mount mouse mouth move much mud music must nail name nap near
neck need nephew nest net never new next nice night nine noise none noon north nose note nothing now number nurse nut
oak ocean off offer often oil old once one onion only open orange order other our out oven over owl own pack page
paint pair pan pancake paper parade parent park part party pass past path paw pay pea peach pear pebble pen pencil
people pepper perhaps piano pick picnic picture pie piece pig pillow pine pink pipe pirate place plan plant plate play
please plum pocket point pond pony pool poor pot potato pour present press pretty proud pull pump puppy purple push
put puzzle queen quick quiet quilt quite rabbit race rain rainbow raise reach read ready real red rest return ribbon
rice rich ride right ring ripe river road roar rock roll roof room root rope rose round row rub rug rule run sad safe
sail salad salt same sand save say scarf school sea seat second secret see seed seesaw sell send seven shade shake
share sharp sheep shelf shell shine ship shirt shoe shop short shout show shy sick side silly silver simple sing
sister sit six skate skin skip sky sled sleep slide slow small smell smile smoke snack snail snow soap sock soft soil
some song soon sorry sound soup south space spade spark speak spell spend spider spin spoon spot spring square
squirrel stable stairs stand star start stay steam step stick still stir stone stool stop store storm story straight
strange straw stream street string strong such sudden sugar suit summer sun supper sure surprise swan sweater sweep
sweet swim swing table tail take talk tall tame taste tea teach team tell ten tent than thank that then there thick
thin thing think thirsty this three throw thumb ticket tidy tie tiger time tiny tired toad toast today toe together
tomato tonight too tooth top touch towel tower town toy track trade train travel treasure tree trick trip truck true
trunk try tub tulip tunnel turn turtle twelve twenty twin two ugly umbrella uncle under until upon use useful valley
van vegetable very village violin visit voice wagon wait wake walk wall wallet walnut want warm wash watch water wave
way weak wear weather week well west wet whale what wheat wheel when where which whisper whistle white who whole why
wide wild win wind window wing winter wise wish with wolf woman wonder wood wool word work world worm worry wrap write
wrong yard year yellow yes yesterday yet young zebra zoo
"""
WORDS: tuple[str, ...] = tuple(_TEXT.split())
