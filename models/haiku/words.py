"""The word lists of the haiku generator, written for it, each word with its syllables.

`falls/fall1` is a pair (verb singular/plural, noun singular/plural) of one syllable each;
`washes2/wash1` a pair whose counts differ. Places are whole phrases; the words in them are
counted by the same lexicon (`SMALL` holds the ones that stand in no other list).
"""

SMALL = """the1 a1 an1 and1 of1 in1 on1 at1 by1 to1 from1 with1 under2 over2 beneath2 beside2 between2 through1 across2
along2 before2 after2 behind2 above2 around2 inside2 into2 toward2 without2 near1 past1 down1 up1 one1 no1 all1 only2
we1 my1 your1 our1 its1 their1 now1 how1 so1 many2 still1 here1 once1 more1 last1 again2 nothing2 but1 someone2 like1
every2 each1 this1 that1 who1 old1 new1 long1 while1 until2 where1"""

ADVERBS = "slowly2 softly2 again2 alone2 tonight2 always2 gently2 forever3 once1 still1 together3 quietly3"

ADJECTIVES = """cold1 warm1 bright1 dark1 soft1 slow1 small1 pale1 deep1 wild1 calm1 faint1 late1 white1 blue1 red1 green1
grey1 silver2 golden2 silent2 quiet2 gentle2 distant2 hidden2 early2 lonely2 tender2 ancient2 patient2 restless2 empty2
velvet2 crimson2 forgotten3 delicate3 invisible4"""

VERBS = """waits/wait1 glows/glow1 sleeps/sleep1 wakes/wake1 turns/turn1 shines/shine1 fades/fade1 drifts/drift1 sings/sing1
dreams/dream1 moves/move1 rests/rest1 rises2/rise1 trembles/tremble2 wanders/wander2 gathers/gather2 shimmers/shimmer2
lingers/linger2 returns/return2 begins/begin2 awakens/awaken3 listens/listen2"""

SPEAKING = "says/say1 sings/sing1 spells/spell1 hums/hum1 whispers/whisper2 murmurs/murmur2 answers/answer2 remembers/remember3"

PLACES = """in the dark; in the light; at dawn; at dusk; all night; once more; by the door; in the wind; in my hands; before dawn;
after dark; under the moon; without a sound; beneath the stars; in the morning; in the silence; far away; over and over;
through the window; into the night; until the morning; in the evening light; at the end of day"""

# topic: (names it is asked by, noun pairs, mass nouns, adjectives, verbs, places)
TOPICS = {
    "gpu": (
        "GPU computing; GPUs; parallel computing; graphics cards; GPU programming",
        """core/cores1 warp/warps1 thread/threads1 block/blocks1 kernel/kernels2 tensor/tensors2 matrix3/matrices3 vector/vectors2
        pixel/pixels2 lane/lanes1 cache1/caches2 fan/fans1 circuit/circuits2 clock/clocks1 grid/grids1 float/floats1
        register/registers3 gradient/gradients3 shader/shaders2 barrier/barriers3 tile/tiles1 batch1/batches2""",
        "heat1 silicon3 memory3 bandwidth2 power2 copper2 data2 arithmetic4 light1 math1",
        "parallel3 shared1 fused1 tiny2 electric3 busy2 numeric3 warm1 dense1 sparse1 swift1 synchronous3",
        """runs/run1 multiplies3/multiply3 computes/compute2 launches2/launch1 streams/stream1 adds/add1 loads/load1 hums/hum1
        spins/spin1 converges3/converge2 diverges3/diverge2 flows/flow1""",
        """in lockstep; on the die; in the grid; through the cores; in shared memory; across the lanes; at the barrier; in parallel;
        along the bus; inside the kernel; under the heat sink; through silicon""",
    ),
    "autumn": (
        "autumn; fall; the autumn; autumn leaves; October",
        """leaf1/leaves1 maple/maples2 acorn/acorns2 crow/crows1 branch1/branches2 field/fields1 pumpkin/pumpkins2 orchard/orchards2
        apple/apples2 chestnut/chestnuts2 ember/embers2 basket/baskets2 scarecrow/scarecrows2 goose1/geese1""",
        "smoke1 mist1 harvest2 frost1 rust1 october3 wood1",
        "amber2 russet2 yellow2 brown1 dry1 brittle2 ripe1 fallen2 scarlet2 mellow2",
        "falls/fall1 rustles/rustle2 crumbles/crumble2 reddens/redden2 scatters/scatter2 ripens/ripen2",
        "in the leaves; under the oak; on the path; through bare trees; over the field; in the orchard; by the old stone wall; in october",
    ),
    "sea": (
        "the sea; the ocean; sea; waves; the beach; the shore",
        """wave/waves1 shell/shells1 gull/gulls1 tide/tides1 harbor/harbors2 sailor/sailors2 boat/boats1 island/islands2 pebble/pebbles2
        whale/whales1 anchor/anchors2 lighthouse2/lighthouses3 sail/sails1 dolphin/dolphins2 fisherman3/fishermen3 reef/reefs1""",
        "salt1 foam1 sand1 spray1 seaweed2 driftwood2 fog1 brine1",
        "salty2 endless2 turquoise2 rolling2 stormy2 tidal2 wide1 blue1 drowned1",
        "breaks/break1 sways/sway1 crashes2/crash1 floats/float1 dives/dive1 swells/swell1 sails/sail1",
        "on the sand; in the foam; across the bay; out at sea; along the shore; beneath the waves; in the harbor; over the water; at low tide",
    ),
    "winter": (
        "winter; snow; the winter; a winter night; January; ice",
        """snowflake/snowflakes2 icicle/icicles3 sparrow/sparrows2 pine/pines1 footprint/footprints2 candle/candles2 hearth/hearths1
        blanket/blankets2 roof/roofs1 owl/owls1 lantern/lanterns2 sled/sleds1 mitten/mittens2 rabbit/rabbits2""",
        "snow1 ice1 frost1 breath1 wool1 silence2 december3 january4",
        "frozen2 bare1 bitter2 icy2 snowy2 naked2 muffled2 bleak1 crystal2",
        "freezes2/freeze1 falls/fall1 shivers/shiver2 melts/melt1 glitters/glitter2 settles/settle2",
        "in the snow; on the ice; under the snow; by the fire; through frozen pines; on the white field; in december; over the roofs",
    ),
    "coffee": (
        "coffee; a cup of coffee; espresso; morning coffee; the coffee",
        """cup/cups1 bean/beans1 spoon/spoons1 kettle/kettles2 mug/mugs1 barista/baristas3 table/tables2 napkin/napkins2 sip/sips1
        waiter/waiters2 newspaper/newspapers4 grinder/grinders2 saucer/saucers2 cafe/cafes2""",
        "steam1 foam1 cream1 sugar2 espresso3 aroma3 milk1 warmth1 cinnamon3",
        "black1 bitter2 roasted2 dark1 steaming2 sweet1 fragrant2 sleepy2 creamy2 strong1",
        "steams/steam1 pours/pour1 drips/drip1 brews/brew1 swirls/swirl1 cools/cool1 bubbles/bubble2",
        "in my cup; on my tongue; at the counter; with the steam; in the kitchen; beside the cup; in the cafe; from the kettle; by the window",
    ),
    "rain": (
        "rain; the rain; a storm; a thunderstorm; rainy days",
        """drop/drops1 puddle/puddles2 cloud/clouds1 umbrella/umbrellas3 gutter/gutters2 window/windows2 storm/storms1 frog/frogs1
        roof/roofs1 streetlight/streetlights2 snail/snails1 raincoat/raincoats2 drum/drums1""",
        "thunder2 mud1 water2 drizzle2 lightning2 moss1 mist1",
        "wet1 heavy2 soaked1 steady2 dripping2 cloudy2 drenched1 rainy2 hushed1",
        "falls/fall1 drips/drip1 splashes2/splash1 taps/tap1 patters/patter2 pours/pour1 rumbles/rumble2",
        "in the rain; on the roof; down the glass; in the mud; on the window; under grey clouds; through the gutters; after the rain; in the puddles",
    ),
    "spring": (
        "spring; the spring; April; cherry blossoms; springtime",
        """bud/buds1 blossom/blossoms2 robin/robins2 seed/seeds1 tulip/tulips2 nest/nests1 lamb/lambs1 petal/petals2 bee/bees1
        sapling/saplings2 cherry/cherries2 daffodil/daffodils3 swallow/swallows2 egg/eggs1""",
        "grass1 pollen2 rain1 sunlight2 april2 nectar2 dew1",
        "fresh1 young1 green1 pink1 budding2 fragrant2 tender2 hopeful2 newborn2",
        "opens/open2 blooms/bloom1 grows/grow1 sprouts/sprout1 hatches2/hatch1 stirs/stir1 blossoms/blossom2",
        "in the grass; on the bough; in april; under the blossoms; from the soil; among petals; in the orchard; in the new sun",
    ),
    "summer": (
        "summer; the summer; a summer day; July; summer nights",
        """cricket/crickets2 firefly/fireflies3 peach1/peaches2 melon/melons2 hammock/hammocks2 swing/swings1 cicada/cicadas3
        sunflower/sunflowers3 lemon/lemons2 meadow/meadows2 porch1/porches2 bicycle/bicycles3 child1/children2""",
        "heat1 dust1 honey2 sunshine2 hay1 laughter2 july2 lemonade3",
        "hot1 lazy2 sunny2 ripe1 barefoot2 sweet1 drowsy2 burning2 hazy2",
        "buzzes2/buzz1 burns/burn1 ripens/ripen2 laughs/laugh1 sways/sway1 hums/hum1 dances2/dance1",
        "in the shade; in the heat; under the sun; in july; through tall grass; on the warm stones; in the meadow; all afternoon",
    ),
    "moon": (
        "the moon; moonlight; the full moon; a moonlit night",
        """moth/moths1 owl/owls1 shadow/shadows2 crescent/crescents2 pond/ponds1 cloud/clouds1 dream/dreams1 tide/tides1
        mirror/mirrors2 lantern/lanterns2 wolf1/wolves1 orbit/orbits2 crater/craters2""",
        "moonlight2 silver2 darkness2 milk1 dust1 midnight2 glass1",
        "round1 full1 pale1 lunar2 waning2 ghostly2 hollow2 luminous3 borrowed2",
        "rises2/rise1 sets/set1 wanes/wane1 floats/float1 climbs/climb1 follows/follow2 howls/howl1",
        "in the pond; through the clouds; on the hill; above the roofs; in the moonlight; over the lake; at midnight; on the still water",
    ),
    "mountain": (
        "mountains; a mountain; the mountains; the mountain; hiking",
        """peak/peaks1 stone/stones1 eagle/eagles2 trail/trails1 summit/summits2 goat/goats1 valley/valleys2 cliff/cliffs1 ridge1/ridges2
        glacier/glaciers2 boulder/boulders2 pilgrim/pilgrims2 echo2/echoes2 temple/temples2""",
        "granite2 snow1 air1 mist1 silence2 altitude3",
        "steep1 high1 rugged2 stony2 proud1 massive2 misty2 weathered2 jagged2",
        "climbs/climb1 stands/stand1 towers/tower2 soars/soar1 echoes2/echo2 endures/endure2",
        "on the peak; on the ridge; above the clouds; in thin air; up the trail; in the valley; over the pass; among the boulders",
    ),
    "forest": (
        "the forest; a forest; forests; trees; the woods",
        """tree/trees1 fern/ferns1 deer/deer1 root/roots1 cedar/cedars2 mushroom/mushrooms2 fox1/foxes2 branch1/branches2 path/paths1
        raven/ravens2 squirrel/squirrels2 trunk/trunks1 birch1/birches2 woodpecker/woodpeckers3""",
        "moss1 bark1 shade1 lichen2 resin2 birdsong2 ivy2",
        "mossy2 tall1 leafy2 shady2 tangled2 wooden2 evergreen3 ferny2",
        "grows/grow1 creaks/creak1 hides/hide1 whispers/whisper2 sways/sway1 rustles/rustle2",
        "in the woods; under the pines; in the moss; among the ferns; between the trees; on the forest floor; in green shade; through the branches",
    ),
    "river": (
        "a river; the river; rivers; a stream; water",
        """stone/stones1 heron/herons2 bridge1/bridges2 trout/trout1 willow/willows2 reed/reeds1 otter/otters2 ferry/ferries2 current/currents2
        ripple/ripples2 bank/banks1 dragonfly/dragonflies3 canoe/canoes2""",
        "water2 silt1 mud1 foam1 driftwood2 clay1",
        "winding2 swift1 shallow2 muddy2 clear1 flowing2 glassy2 wandering3",
        "flows/flow1 bends/bend1 winds/wind1 ripples/ripple2 carries/carry2 splashes2/splash1",
        "on the bank; in the reeds; under the bridge; down the stream; over smooth stones; in the current; past the willows; to the sea",
    ),
    "night": (
        "the night; stars; the stars; the night sky; night",
        """star/stars1 comet/comets2 bat/bats1 planet/planets2 constellation/constellations4 galaxy3/galaxies3 meteor/meteors3
        telescope/telescopes3 shadow/shadows2 lamp/lamps1 dreamer/dreamers2 satellite/satellites3""",
        "darkness2 starlight2 midnight2 silence2 sleep1 stardust2",
        "starry2 black1 infinite3 far1 cosmic2 sleepless2 scattered2 burning2 nameless2",
        "burns/burn1 blinks/blink1 twinkles/twinkle2 watches2/watch1 orbits/orbit2 flickers/flicker2",
        "in the sky; at midnight; above the town; through the darkness; among the stars; over the rooftops; light years away; in the black",
    ),
    "cat": (
        "cats; a cat; my cat; the cat; kittens",
        """cat/cats1 paw/paws1 whisker/whiskers2 kitten/kittens2 tail/tails1 mouse1/mice1 cushion/cushions2 sunbeam/sunbeams2 ear/ears1
        shadow/shadows2 windowsill/windowsills3 sparrow/sparrows2 bowl/bowls1""",
        "fur1 milk1 yarn1 velvet2 sunlight2 mischief2 sleep1",
        "sleek1 furry2 sleepy2 striped1 curious3 lazy2 hungry2 secret2 elegant3",
        "purrs/purr1 naps/nap1 leaps/leap1 stretches2/stretch1 prowls/prowl1 blinks/blink1 pounces2/pounce1",
        "in the sun; on the couch; in my lap; on the warm sill; under the bed; by the stove; on velvet paws; in the hallway",
    ),
    "bird": (
        "birds; a bird; birdsong; the birds; a flock of birds",
        """wing/wings1 feather/feathers2 sparrow/sparrows2 nest/nests1 crane/cranes1 finch1/finches2 heron/herons2 swan/swans1 dove/doves1
        hummingbird/hummingbirds3 branch1/branches2 flock/flocks1 nightingale/nightingales3""",
        "song1 air1 seed1 music2 daybreak2 sky1",
        "winged1 feathered2 light1 soaring2 graceful2 free1 melodic3 homeward2",
        "flies/fly1 soars/soar1 sings/sing1 glides/glide1 lands/land1 flutters/flutter2 chirps/chirp1",
        "in the sky; on the wire; on the wing; over the marsh; from branch to branch; in the treetops; toward the south; at daybreak",
    ),
    "garden": (
        "a garden; gardens; flowers; the garden; roses",
        """rose1/roses2 bee/bees1 flower/flowers2 lily/lilies2 gate/gates1 worm/worms1 tomato/tomatoes3 gardener/gardeners3 butterfly/butterflies3
        vine/vines1 thorn/thorns1 orchid/orchids2 beetle/beetles2 spade/spades1""",
        "soil1 dew1 lavender3 clover2 perfume2 basil2 mint1",
        "fragrant2 blooming2 thorny2 earthy2 green1 wilted2 violet3 patient2",
        "blooms/bloom1 climbs/climb1 grows/grow1 wilts/wilt1 opens/open2 flowers/flower2",
        "by the gate; in the soil; among the roses; in the dew; on the trellis; along the wall; under the leaves; in full bloom",
    ),
    "city": (
        "the city; a city; Tokyo; city life; the city at night",
        """street/streets1 window/windows2 taxi/taxis2 tower/towers2 siren/sirens2 stranger/strangers2 neon/neons2 alley/alleys2 subway/subways2
        pigeon/pigeons2 signal/signals2 rooftop/rooftops2 elevator/elevators4""",
        "neon2 concrete2 traffic2 glass1 steel1 asphalt2 rain1",
        "crowded2 loud1 concrete2 busy2 sleepless2 electric3 urban2 towering3 anonymous4",
        "hums/hum1 blinks/blink1 hurries/hurry2 glitters/glitter2 passes2/pass1 rushes2/rush1",
        "on the street; in the crowd; on the subway; above the traffic; in the neon light; at the crossing; down the alley; behind the windows",
    ),
    "tea": (
        "tea; a cup of tea; green tea; the tea ceremony",
        """cup/cups1 leaf1/leaves1 kettle/kettles2 bowl/bowls1 teapot/teapots2 guest/guests1 sip/sips1 lid/lids1 whisk/whisks1
        ceremony4/ceremonies4 cushion/cushions2 porcelain3/porcelains3""",
        "steam1 honey2 jasmine2 ginger2 warmth1 bamboo2 matcha2 silence2",
        "green1 fragrant2 steeping2 hot1 floral2 humble2 bitter2 porcelain3",
        "steeps/steep1 steams/steam1 pours/pour1 cools/cool1 swirls/swirl1 simmers/simmer2",
        "in the cup; on the mat; in the steam; from the kettle; in both hands; with honey; in the tearoom; for a guest",
    ),
    "music": (
        "music; a song; jazz; the piano; a violin",
        """note/notes1 string/strings1 drum/drums1 piano/pianos3 violin/violins3 melody3/melodies3 flute/flutes1 singer/singers2 chord/chords1
        rhythm/rhythms2 trumpet/trumpets2 echo2/echoes2 song/songs1 guitar/guitars2""",
        "jazz1 harmony3 silence2 applause2 music2 breath1 tempo2",
        "minor2 sweet1 sad1 melodic3 lilting2 hushed1 rhythmic2 ringing2 harmonious4",
        "plays/play1 rings/ring1 echoes2/echo2 swells/swell1 hums/hum1 lingers/linger2 dances2/dance1",
        "in the hall; on the strings; in the air; between the notes; from the piano; in a minor key; after the song; on the last chord",
    ),
    "morning": (
        "morning; the morning; sunrise; dawn; the sunrise",
        """rooster/roosters2 curtain/curtains2 window/windows2 lark/larks1 sunbeam/sunbeams2 footstep/footsteps2 bell/bells1 pillow/pillows2
        horizon/horizons3 spider/spiders2 cobweb/cobwebs2 baker/bakers2""",
        "dew1 toast1 sunrise2 light1 daybreak2 mist1 birdsong2 gold1",
        "early2 rosy2 drowsy2 fresh1 dewy2 first1 golden2 yawning2",
        "wakes/wake1 rises2/rise1 opens/open2 yawns/yawn1 glows/glow1 brightens/brighten2",
        "at sunrise; in the dew; on the sill; with the sun; through the curtains; across the hills; before the alarm; in the first light",
    ),
    "fire": (
        "fire; a campfire; the fire; candles; a candle",
        """flame/flames1 spark/sparks1 ember/embers2 candle/candles2 log/logs1 match1/matches2 moth/moths1 torch1/torches2 hearth/hearths1
        shadow/shadows2 story2/stories2 face1/faces2""",
        "smoke1 ash1 heat1 wood1 coal1 kindling2 warmth1 amber2",
        "orange2 hungry2 flickering3 smoky2 glowing2 hot1 charred1 dancing2",
        "burns/burn1 crackles/crackle2 leaps/leap1 flickers/flicker2 smolders/smolder2 dies/die1 dances2/dance1",
        "by the fire; in the ash; up the chimney; around the hearth; in the coals; into smoke; among the embers; on the wick",
    ),
    "book": (
        "books; a book; reading; the library; a library",
        """page1/pages2 word/words1 story2/stories2 chapter/chapters2 poet/poets2 shelf1/shelves1 letter/letters2 margin/margins2 reader/readers2
        library3/libraries3 bookmark/bookmarks2 sentence2/sentences3 ghost/ghosts1""",
        "ink1 paper2 dust1 poetry3 silence2 leather2 lamplight2",
        "unread2 worn1 printed2 folded2 yellow2 borrowed2 bookish2 unfinished3 dusty2",
        "turns/turn1 speaks/speak1 waits/wait1 ends/end1 unfolds/unfold2 opens/open2",
        "on the shelf; on the page; between the lines; in the margin; at the library; by lamplight; in faded ink; under my pillow",
    ),
    "train": (
        "trains; a train; the railway; a train station; travel",
        """rail/rails1 whistle/whistles2 station/stations2 tunnel/tunnels2 ticket/tickets2 suitcase2/suitcases3 platform/platforms2 window/windows2
        traveler/travelers3 signal/signals2 wheel/wheels1 engine/engines2 conductor/conductors3""",
        "steam1 iron2 steel1 distance2 smoke1 luggage2",
        "northbound2 iron2 late1 fast1 departing3 rattling2 crowded2 endless2",
        "leaves1/leave1 rolls/roll1 rattles/rattle2 slows/slow1 departs/depart2 arrives/arrive2 rushes2/rush1",
        "on the rails; down the line; at the station; through the tunnel; past the fields; on the platform; around the bend; out of the dark",
    ),
    "desert": (
        "the desert; a desert; deserts; sand dunes; the Sahara",
        """dune/dunes1 camel/camels2 cactus2/cacti2 lizard/lizards2 mirage2/mirages3 caravan/caravans3 scorpion/scorpions3 well/wells1
        stone/stones1 hawk/hawks1 bone/bones1 oasis3/oases3""",
        "sand1 heat1 thirst1 dust1 silence2 salt1 wind1",
        "dry1 vast1 burning2 sandy2 barren2 thirsty2 endless2 scorched1 shimmering3",
        "shifts/shift1 burns/burn1 shimmers/shimmer2 crawls/crawl1 blows/blow1 vanishes3/vanish2",
        "on the dune; in the sand; under the sun; across the sand; at the well; beyond the dunes; in the dry wind; for a thousand miles",
    ),
}

# Words of the places that no other list counts.
PHRASES = """far1 away2 over2 end1 day1 night1 dawn1 dusk1 door1 wind1 hands1 moon1 sound1 stars1 morning2 silence2 evening3 window2
lockstep2 die1 grid1 cores1 lanes1 bus1 sink1 heat1 oak1 path1 bare1 trees1 field1 orchard2 stone1 wall1 bay1 out1 sea1 shore1 waves1 water2
low1 tide1 fire1 pines1 roofs1 tongue1 counter2 kitchen2 cafe2 glass1 mud1 clouds1 gutters2 puddles2 grass1 bough1 april2 blossoms2
soil1 among2 petals2 sun1 shade1 tall1 stones1 meadow2 afternoon3 pond1 hill1 lake1 midnight2 peak1 ridge1 thin1 air1 trail1 valley2 pass1
boulders2 woods1 moss1 ferns1 forest2 floor1 branches2 bank1 reeds1 bridge1 stream1 smooth1 current2 willows2 sky1 town1 darkness2
rooftops2 light1 years1 black1 couch1 lap1 sill1 bed1 stove1 paws1 hallway2 wire1 wing1 marsh1 branch1 treetops2 south1 daybreak2 gate1 roses2 dew1
trellis2 leaves1 full1 bloom1 street1 crowd1 subway2 traffic2 neon2 crossing2 alley2 windows2 cup1 mat1 steam1 kettle2 both1 honey2 tearoom2
for1 guest1 hall1 strings1 notes1 piano3 minor2 key1 song1 chord1 sunrise2 curtains2 hills1 alarm2 first1 ash1 chimney2 hearth1 coals1 smoke1
embers2 wick1 shelf1 page1 lines1 margin2 library3 lamplight2 faded2 ink1 pillow2 rails1 line1 station2 tunnel2 fields1 platform2 bend1
dune1 sand1 well1 beyond2 dunes1 thousand2 miles1 december3 october3 july2 parallel3 memory3 shared1 barrier3 kernel2 silicon3 harbor2
foam1 snow1 ice1 frozen2 white1 cup1 rain1 grey1 roof1 new1 warm1 moonlight2 green1 velvet2 dry1 water2 counting2 count1 counts1 name1"""

# Ordinary words, so that copying is practised on real spellings too; their syllables are estimated unless given elsewhere.
ORDINARY = """able about absence accident account ache acid across actor adult advice afraid agency agree airport album alphabet
amaze anger animal ankle answer anthem antique apartment apology apron archive arena argue army arrow article artist aspect
athlete attic auction author avenue average awkward bachelor bacon balance balcony balloon banana bandage banjo banner bargain barn baseball
basement bathroom battery beach bead bean beard beauty because bedroom before begin behave belief belong belt bench benefit berry beyond
bicycle biology birthday biscuit blade blame blend blind blossom blouse board body boil bold bonus border borrow bother bottle bottom
bounce boundary bracelet brain brave bread breakfast breeze brick brilliant bring brother bruise brush bubble bucket budget buffalo bullet
bundle burden business butter button cabbage cabin cable calculator calendar camera campaign canal canary cancel candy canvas capital captain carbon
cargo carpet carrot cartoon carve castle catalog caught caution celebrate cellar cement center century cereal certain chain chair challenge
champion chance change channel chaos character charge charm chart chase cheap cheese chemistry cherry chess chicken chief chocolate choice
chorus church cinema circle citizen civil claim classic clean clever climate clinic clown cluster coach coast cobalt coconut coffin collar
college comedy comfort common company compass complex computer concert confuse congress connect constant contact copy coral corner costume cotton
cough council country couple courage cousin cradle craft crater crazy creature credit crew crime crisis critic crocodile crowd crown crucial
cruise crumb crush crystal culture cupboard curve custom cycle dairy damage dancer danger daring daughter deadline debate decade decide
decimal deck defend degree delay delight deliver demand dentist deny depth deputy design desire detail device diagram diamond diary dictionary
diesel difficult digital dignity dinner dinosaur diploma direct discover disease dish distance divide doctor dolphin domain donkey double doubt
dough dozen dragon drama drawer dream dress drill drink drive dwarf eager early earth earthquake easy economy edge editor education effort
eight elastic elbow elder election elephant eleven emotion empire employ empty enemy energy engineer enjoy enough envelope episode equal eraser
error escape essay eternal ethics evidence exact example exchange excite exercise exhibit exit exotic expert explain express extra fabric factory
faculty fairy faith false family famous fantasy farm fashion father fatigue fault favor federal feeling fence festival fever fiction fifty figure
film final finger finish fiscal fish flag flavor flight flour fluid focus foil folk follow food foot force forget fork fortune forum fossil found
fragile frame freedom freight fresh friend fruit fuel funny furnace fusion future gadget gallery game garage garlic gasoline gather gauge
gaze gender general genius genre gesture giant giraffe girl glance glasses globe glory glove glue goal goddess gorilla gossip govern gown grace
grain grammar grape graph gravity great grocery group guard guess guide guilt guitar gym habit hair hammer hamster handle happy harbor hardware
harmony harvest hazard health heart heaven hedgehog height helmet herb heritage hero hint history hobby hockey holiday hope horror horse hospital
hotel hour house humor hundred hunger hurdle hurricane husband hybrid hypnosis idea identity image imagine immune impact import impulse income index
industry infant inform inherit injury inner innocent insect inspire install intact interest invite island isolate ivory jacket jaguar jealous
jeans jelly jewel journal journey judge juice jungle junior justice kangaroo keen keyboard kidney kingdom kiosk kitchen kite knee knife knight
knock knot knowledge label laboratory ladder lake language laptop large laser lasagna laundry lava lawn lawyer layer leader league leather lecture
legacy legend leisure lemon length leopard lesson level liberty license lift limb limit linen lion liquid list little lizard lobster local
logic lottery lounge loyal luck lumber lunch luxury lyric machine magic magnet maid mailbox major mammal mango mansion marble margin marine market
marriage mask master material maximum maze meadow meal measure meat mechanic medal melody member memory mention mercy merge metal method microphone
middle milk million mimic mineral minute miracle mirror misery mistake mixture mobile model modern monkey monster month moral mosquito
mother motion motor mountain mouse movie muffin multiply muscle museum mystery myth narrow nation nature neck needle neglect neighbor nephew nerve
network neutral never nice nickel noble noise noodle normal north notable notice novel nuclear number nurse oak object oblige obscure observe
obtain ocean octopus odor office olive olympic omelet onion opera opinion oppose option orange orbit orchestra ordinary organ orphan ostrich
outdoor oval oven owner oxygen oyster ozone package paddle palace panda panel panic panther parade parent park parrot party passenger patch patrol
pattern pause payment peace peanut pear peasant pelican penalty pencil people pepper perfect permit person phone photo phrase physical piano picnic
picture piece pigeon pilot pioneer pistol pitch pizza plastic player please pledge pluck plunge poem poison police pond popular portion position
potato pottery poverty powder practice praise predict prefer prepare present pretty prevent price pride primary prince print prison private prize
problem process produce profit program project promote proof property prosper protect provide public pudding pumpkin punch pupil puppy purchase
purpose puzzle pyramid quality quantum quarter queen question quick quilt quit quiz quote rabbit raccoon race rack radar radio railway raise rally
ranch random range rapid rather razor ready reason rebel recall receive recipe record recycle reduce reflect reform region regret regular reject
relax release relief remain remember remind remove render renew repair repeat replace report rescue resemble resist resource response result
retire retreat reunion reveal review reward rhythm ribbon rice rifle right rigid ritual rival road robot robust rocket romance rotate rough round
route royal rubber rural saddle sadness safety salad salmon salon salute sample satisfy satoshi sauce sausage scale scatter scene scheme school
science scissors scout screen script scrub search season second section security segment select senior sense series service session settle seven shaft
shallow share sheriff shield ship shiver shock shoe shoulder shove shrimp shrug sibling siege sight signal silly similar simple since sister
situate sketch skill skirt skull slender slice slogan smart smooth snack snake soccer social solar soldier solid solution sorry source soup space spatial
special speed sphere spice spider spike spirit split spoil sponsor spot squad square squeeze squirrel stable stadium staff stairs stamp standard state
stay steak stem stereo stick stomach stool storage strategy strike student stuff stumble style subject submit success sudden suffer suggest
suit sunset super supply supreme surface surge surprise surround survey suspect sustain swamp swarm swear swift swim switch sword symbol symptom syrup
system table tackle talent tank target tattoo teach team temple tenant tennis theory thought throne thumb ticket tiger timber tissue title tobacco
today together toilet token tomorrow tongue topic topple tornado tortoise total tourist toward track trade tragic transfer trap travel treasure
treat trend trial tribe trick trigger trophy trouble truck trumpet trust tube tuition tunnel turkey turtle twelve twenty twice twist typical ugly
umbrella unable uncle undo unfair unhappy uniform unique universe unknown unlock unusual update upgrade uphold upper upset urban usage useful useless
vacant vacuum vague valid valley vanilla various vault vehicle velvet vendor venture venue verify version vessel veteran viable vibrant vicious victory
video village vintage virtual virus visa visit visual vital vivid vocal voice volcano volume voyage wagon walnut warfare warrior wealth weapon weather
wedding weekend weird welcome western wheat whip width wisdom witness woman wonder workshop world worry wrap wreck wrestle wrist wrong yard year
youth zebra zero zone zoo zephyr quartz rhubarb sphinx phlegm knoll gnome pneumonia psalm wharf yacht xylophone vodka gazebo jukebox
Alice Benjamin Charlotte Dmitri Eleanor Francisco Giovanni Hiroshi Ingrid Jacqueline Katarzyna Lorenzo Mohammed Nguyen Olivia Priya Quentin
Rosalind Siobhan Tchaikovsky Ursula Vladimir Wolfgang Xavier Yolanda Zachary Ada Lovelace Turing Hopper Bjorn Sven Wojciech Aoife Niamh Xochitl
algorithm bandwidth compiler database encryption firmware gigabyte hypervisor interface javascript latency megabyte notebook operator pointer
quaternion recursion semaphore throughput unicode virtualize wavelength bicycle-lane merry-go-round well-known mother-in-law half-moon snow-white
strengths twelfths rhythms crwth psyche queue schnapps tsunami pterodactyl mnemonic syzygy onomatopoeia bourgeois rendezvous boulevard entrepreneur
understanding extraordinary communication responsibility international concentration demonstration unfortunately consciousness philosophical"""
