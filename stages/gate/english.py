"""The tables of English: what is written short and said long. All that a second language would need of its own."""

from __future__ import annotations

Reading = tuple[str, ...]


def _table(lines: str) -> dict[str, tuple[Reading, ...]]:
    """ "a, b: one two | three; ...": each of a and b may be read "one two" or "three"."""
    table = {}
    for line in lines.replace("\n", " ").split(";"):
        names, _, readings = line.partition(":")
        for name in names.split(","):
            if name.strip():
                table[name.strip()] = tuple(tuple(reading.split()) for reading in readings.split("|"))
    return table


UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = ["", "thousand", "million", "billion", "trillion"]
ODD_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth",
}  # fmt: skip
NUMERALS = {*UNITS, *TENS, *SCALES[1:], "hundred", "half", "quarter", "few"}
SHORT_SCALES = {
    "k": "thousand", "m": "million", "mn": "million", "mio": "million", "mil": "million", "b": "billion", "bn": "billion",
    "t": "trillion", "tn": "trillion", "trn": "trillion",
    **{scale: scale for scale in ("hundred", *SCALES[1:])},
}  # fmt: skip
# sign: one, many, a hundredth, hundredths
CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"), "£": ("pound", "pounds", "penny", "pence"), "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"), "₹": ("rupee", "rupees", "paisa", "paise"), "₩": ("won", "won", "won", "won"),
    "₽": ("ruble", "rubles", "kopeck", "kopecks"),
}  # fmt: skip
CENTS = "¢"

MONTHS = {
    short: name for name, *shorts in map(str.split, (
        "january jan", "february feb", "march mar", "april apr", "may", "june jun", "july jul", "august aug", "september sept sep",
        "october oct", "november nov", "december dec",
    )) for short in (name, *shorts)
}  # fmt: skip

SYMBOLS = _table("""
    #: pound | hash | number | hashtag; *: star | asterisk | times; &: and | ampersand; %: percent; ‰: per mille; @: at; +: plus | and;
    =: equals | equal | is; $: dollar | dollar sign; £: pound | pounds; €: euro | euros; ¥: yen; ₹: rupee | rupees; ₩: won; ₽: rubles;
    ¢: cents | cent; °: degrees | degree; /: slash; ±: plus or minus | plus minus; ÷: divided by; §: section
""")
# Signs that are read only where they stand between two things, or before a number.
IN_PLACE = {
    "/": (("slash",), (), ("or",), ("per",), ("over",)), ":": ((), ("to",), ("colon",)), ".": (("dot",), ("point",)),
    "–": ((), ("to",), ("dash",), ("minus",), ("through",)), "-": ((), ("to",), ("dash",), ("minus",), ("through",), ("hyphen",)),
    "_": (("underscore",), ()), "~": (("about",), ("approximately",), ("around",)), "≈": (("about",), ("approximately",)),
    "<": (("less", "than"), ("under",)), ">": (("greater", "than"), ("more", "than"), ("over",)),
}  # fmt: skip

# After a number. Both numbers of a unit may be said: a six foot wall, six feet.
MEASURES = _table("""
    km, kms: kilometers | kilometer; m: meters | meter; cm: centimeters | centimeter; mm: millimeters | millimeter; nm: nanometers | nanometer;
    mi: miles | mile; ft: feet | foot; in: inches | inch; yd, yds: yards | yard; lb, lbs: pounds | pound; oz: ounces | ounce;
    kg, kgs: kilograms | kilogram | kilos | kilo; g: grams | gram; mg: milligrams | milligram; t: tons | ton | tonnes; l: liters | liter;
    ml: milliliters | milliliter; cl: centiliters | centiliter; dl: deciliters | deciliter; gal: gallons | gallon; pt: pints | pint;
    tsp: teaspoons | teaspoon; tbsp: tablespoons | tablespoon; mph: miles per hour | miles an hour;
    kph, kmh, km/h: kilometers per hour | kilometers an hour; m/s: meters per second | meters a second;
    mpg: miles per gallon | miles to the gallon; rpm: revolutions per minute; mi/h: miles per hour; hz: hertz; khz: kilohertz; mhz: megahertz;
    ghz: gigahertz; w: watts | watt; kw: kilowatts | kilowatt; mw: megawatts | megawatt; gw: gigawatts | gigawatt;
    kwh: kilowatt hours | kilowatt hour; v: volts | volt; kv: kilovolts | kilovolt; ma: milliamps | milliamp; mah: milliamp hours;
    kb: kilobytes | kilobyte; mb: megabytes | megabyte; gb: gigabytes | gigabyte; tb: terabytes | terabyte; kbps: kilobits per second;
    mbps: megabits per second; gbps: gigabits per second; db: decibels | decibel; s, sec, secs: seconds | second; ms: milliseconds | millisecond;
    min, mins: minutes | minute; h, hr, hrs: hours | hour; yr, yrs: years | year; wk, wks: weeks | week; mo, mos: months | month;
    c: celsius | degrees celsius; f: fahrenheit | degrees fahrenheit; k: kelvin; pct: percent; m2, sqm: square meters | square meter;
    km2, sqkm: square kilometers | square kilometer; ft2, sqft: square feet | square foot; cm2, sqcm: square centimeters;
    mi2, sqmi: square miles | square mile; m3, cum: cubic meters | cubic meter; cm3, cc: cubic centimeters | cubic centimeter;
    ft3, cuft: cubic feet | cubic foot; ha: hectares | hectare; hp: horsepower; cal: calories; kcal: kilocalories; j: joules; kj: kilojoules;
    pa: pascals; kpa: kilopascals; bpm: beats per minute; sqin: square inches | square inch; sqyd: square yards | square yard;
    usd: dollars | u s dollars; eur: euros; gbp: pounds
""")

# With or without their dot ...
ABBREVIATIONS = _table("""
    mr: mister; mrs: missus | mistress; dr: doctor | drive; st: saint | street; mt: mount | mountain; mts: mountains; ft: fort; prof: professor;
    sgt: sergeant; capt: captain; lt: lieutenant; cpl: corporal; cmdr: commander; ave: avenue; blvd: boulevard; rd: road; hwy: highway;
    pkwy: parkway; apt: apartment; vs: versus; etc: et cetera; jr: junior; sr: senior; bros: brothers; dept: department; govt: government;
    univ: university; approx: approximately; tel: telephone; esq: esquire; messrs: messieurs; mlle: mademoiselle; mme: madame; pvt: private;
    tsp: teaspoon; ltd: limited; corp: corporation; vol: volume; vols: volumes; pp: pages; nos: numbers; chap: chapter; feb: february;
    aug: august; sept: september; oct: october; nov: november; apr: april; tues, tue: tuesday; thurs, thur, thu: thursday; fri: friday; w/: with;
    w/o: without; b/c: because; ms: miz | miss; ste: suite; rte: route; c/o: care of; attn: attention
""")
# ... with their dot alone, for without it they are words ...
DOTTED = _table("""
    gen: general; gov: governor; sen: senator; rep: representative; reps: representatives; rev: reverend; hon: honorable; pres: president;
    col: colonel; maj: major; adm: admiral; co: company; inc: incorporated; ln: lane; sq: square; est: established | estimated; assn: association;
    assoc: association | associate; asst: assistant; mar: march; dec: december; jan: january; jun: june; jul: july; sep: september; mon: monday;
    wed: wednesday; sat: saturday; sun: sunday; ct: court; pl: place; fr: father; ph: phone; misc: miscellaneous; min: minimum | minutes;
    cont: continued; v: versus; e.g: for example; i.e: that is; a.k.a: also known as; cf: compare; viz: namely; ca: circa; c: circa; al: others;
    d.c: d c; no: number; max: maximum; ed: editor | edition; eds: editors; ext: extension
""")
# ... and these before a number.
NUMBERED = _table("""
    no: number; nr: number; p: page; pp: pages; ch: chapter; chs: chapters; fig: figure; figs: figures; sec: section; art: article;
    par: paragraph; pt: part; bk: book; ep: episode; vol: volume; v: verse | version | versus; ver: version; rm: room; eq: equation;
    ext: extension
""")

# Nouns with a Roman numeral that is a number; after names it is an ordinal.
COUNTED = set("""
    war chapter part act volume book section type phase bowl stage class level title article figure table grade round appendix scene episode mark
    vol
""".split())

CONTRACTED = {"m": ("am",), "re": ("are",), "ve": ("have",), "ll": ("will",), "d": ("would", "had")}
# "'s" is a verb after these, whatever follows ...
SUBJECTS = set("he she it that this there here what who where when how why".split())
# ... and after nouns only before words that no owner has: these, and forms in -ing that are no things.
AFTER_IS = set("a an the not in on at to here there my your his her our their so too also just always never now already about from going".split())
AFTER_HAS = set("been got had gone become never already just always not".split())
THINGS = set("""
    thing morning evening king ring wing string spring wedding building ceiling painting meeting feeling wing sting swing sling clothing
    drawing ending opening training warning writing reading saying blessing being beginning hearing herring dwelling housing earring
    offspring darling sibling duckling earnings
""".split())

SHORT_FORMS = _table("""
    am: a m; pm: p m; ok: o k; asap: as soon as possible; gonna: going to; tryna: trying to; s'posed: supposed; wanna: want to | want a;
    gotta: got to | got a; kinda: kind of; sorta: sort of; lotta: lot of; outta: out of; lemme: let me; gimme: give me;
    dunno: do not know | don't know; 'cause, cuz, 'cuz, 'cos, coz: because | cause; 'em: them; y'all: you all; ya: you; 'til, til: until | till;
    'tis: it is; 'twas: it was; 'bout: about; 'round: around; 'n, n': and; c'mon: come on; coulda: could have; shoulda: should have;
    woulda: would have; musta: must have; mighta: might have; hafta: have to; hasta: has to; oughta: ought to; needa: need to; gotcha: got you;
    betcha: bet you; whatcha: what are you; ain't: is not | am not | are not; o'clock: of the clock; ma'am: madam; 'kay: okay;
    imma: i am going to; lil, li'l: little; cannot: can not; won't: will not; can't: can not; shan't: shall not
""")

# British spellings that the dictionary has under their American one alone.
AMERICAN = {
    r"is(e[sdr]?|ers|ing|ations?)$": r"iz\1", r"(?<!l)l(ments?)$": r"ll\1", "[ao]e(?=.)": "e", "our": "or", "tre": "ter", "plough": "plow",
    "draught": "draft",
}  # fmt: skip

# What a listener writes for one another though the dictionary says it otherwise. Each line is one sound.
ALIKE = """
then than | a eh | z zee zed | s es | lead led | shore sure | missus mrs | your you're youre yore | there theyre | allright alright | parenthesis parentheses | caret carrot carat
| tilde tilda | yankee yankie | fortieth fourtieth | airplane aeroplane | airplanes aeroplanes | ok okay
| behove behoove | kerb curb | kerbs curbs | gaol jail | thru through
"""
# How short words sound inside of a compound: policeman, today, cannot.
WEAK = {
    "a": "ə", "an": "ən", "the": "ðə", "to": "tə", "for": "fəɹ", "can": "kən", "be": "bɪ", "in": "ɪn", "on": "ɑn", "one": "wən", "some": "səm",
    "man": "mən", "men": "mən", "land": "lənd", "body": "bədi", "ward": "wəɹd", "wards": "wəɹdz", "every": "ɛvɹi", "where": "wəɹ", "data": "dætə",
    "non": "nɑn", "semi": "sɛmi", "anti": "ænti",
}  # fmt: skip
