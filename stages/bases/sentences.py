"""Sentences for the synthetic voices that the tiny bases learn from.

Two kinds, about as many of each: telephone prompts, numbers, letters, times and everyday phrases made here from word
lists and patterns, and the example sentences of WordNet, which have the grammar and the little words of real English.
From one word to half a minute of speech. They come from a seeded generator, so that a base can be rebuilt exactly. No
sentence is taken from the demo corpus; only the domain is the same.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from stages.bases.debian import unpacked

ONES = "zero one two three four five six seven eight nine".split()
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth fortieth fiftieth sixtieth "
    "seventieth eightieth ninetieth hundredth thousandth millionth billionth"
).split()
BIG = "hundred thousand million billion".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
CODE_WORDS = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec romeo "
    "sierra tango uniform victor whiskey xray yankee zulu"
).split()
LETTERS = list("abcdefghijklmnopqrstuvwxyz")
KEYS = [*ONES, "star", "pound", "hash"]
SYMBOLS = (
    "comma,colon,semicolon,dash,dot,dollar,equals,plus,slash,space,percent,ampersand,tilde,caret,underscore,asterisk,"
    "question mark,exclamation point,left bracket,right bracket,left brace,right brace,open parenthesis,"
    "close parenthesis,less than,greater than,dollar sign,backslash,pipe,quote,tick,period,hyphen,number sign"
).split(",")

# Who and what a telephone system speaks of.
PEOPLE = (
    "caller,agent,operator,user,administrator,customer,participant,speaker,representative,manager,member,visitor,"
    "neighbor,friend,brother,sister,mother,father,teacher,doctor,driver,farmer,sailor,writer,singer,student,child,"
    "captain,engineer,secretary,guest,owner,leader,technician,assistant,advocate,party,household,family,stranger"
).split(",")
THINGS = (
    "call,message,number,extension,password,mailbox,folder,conference,recording,greeting,line,tone,account,name,menu,"
    "option,telephone,phone,system,connection,server,network,channel,volume,keypad,digit,letter,keyword,file,"
    "directory,entry,list,test,demonstration,sound,voice,word,sentence,question,answer,request,response,attempt,"
    "transfer,office,company,department,address,street,room,table,window,door,garden,river,mountain,letter box,"
    "computer,program,machine,button,picture,camera,radio,paper,book,story,song,ticket,train,bus,boat,bridge,road,"
    "market,kitchen,bottle,basket,blanket,candle,coat,hat,shoe,clock,watch,key,lock,map,journey,weather,storm,"
    "identification number,area code,phone number,voicemail,speed dial,hold time,call waiting,caller id,audio,"
    "information,feature,status,envelope,introduction,echo test,internet,interface,platform,access,management,"
    "procedure,partnership,product,sales team,configuration file,application,setup process,requirement,console"
).split(",")
ANIMALS = "dog cat horse monkey weasel bird rabbit mouse lion tiger sheep cow duck goose fish bear fox owl".split()
PLACES = (
    "at home,at the office,in the garden,by the river,on the table,near the station,in the kitchen,at the market,"
    "behind the door,under the bridge,on the phone,in the city,across the street,in the next room,on this line,"
    "at the desk,in the mailbox,in the directory,in the conference,in the queue,at this time,on the list"
).split(",")
TIMES = (
    "now,today,tomorrow,yesterday,tonight,this morning,this evening,later,soon,at noon,at midnight,in a moment,"
    "after the tone,at the tone,next week,last week,at any time,immediately,currently,again,one more time,shortly"
).split(",")
STATES = (
    "busy,unavailable,invalid,valid,empty,full,locked,unlocked,muted,unmuted,disabled,enabled,activated,deactivated,"
    "cancelled,saved,deleted,removed,recorded,incorrect,correct,urgent,new,old,ready,open,closed,active,temporary,"
    "complete,completed,connected,disconnected,logged in,logged off,on hold,in use,out of service,not in service,"
    "not available,not valid,not answering,restricted,blacklisted,forwarded,unconditional,extended,accepted,"
    "rejected,unknown,withheld,unidentified,required,standard,advanced,automatic,paused,parked,placed,set"
).split(",")
ADJECTIVES = (
    "good,bad,big,small,long,short,warm,cold,bright,dark,quiet,loud,happy,sad,quick,slow,simple,strange,beautiful,"
    "terrible,wonderful,perfect,polite,yellow,green,red,blue,white,black,heavy,light,soft,hard,early,late,young,"
    "important,different,several,possible,invalid,personal,private,public,local,busy,final,next,previous,last,first,"
    "current,main,simple,technical,helpful,sample,full,open,normal,awesome,premier,sufficient,available,multiple"
).split(",")
VERBS = (
    "accept,add,answer,begin,call,cancel,change,check,choose,complete,confirm,connect to,continue,create,delete,dial,"
    "disable,edit,enable,end,enter,erase,exit,find,finish,follow,forward,hear,hold,increase,decrease,install,join,"
    "leave,listen to,locate,lock,lower,mark,mute,open,pause,place,play,press,quit,raise,reach,receive,record,reject,"
    "remember,remove,repeat,reset,return to,review,save,say,search,select,send,set,skip,speak with,start,stop,"
    "store,toggle,transfer,try,turn off,turn on,undelete,unlock,unmute,use,verify,wait for,lead,list,kick,eject,"
    "jump over,truncate,establish,execute,navigate,browse,introduce,guide,park,pick up,hang up on,prepend,re-enter"
).split(",")
PAST = (
    "accepted,added,answered,called,cancelled,changed,checked,connected,created,deleted,dialed,entered,found,heard,"
    "joined,left,located,lost,marked,missed,moved,opened,placed,played,received,recorded,rejected,removed,repeated,"
    "reset,saved,selected,sent,set,started,stopped,stored,used,seen,taken,carried,eaten,brought,given,kept,made,told,"
    "painted,written,read,wanted,needed,liked,helped,followed,watched,opened,closed,asked for,looked for,paid for,"
    "installed,executed,kicked,ejected,forwarded,transferred,disconnected,identified,unlocked,accessed,reached"
).split(",")
COURTESY = (
    "Thank you.,Please wait.,Please hold.,Please try again.,I am sorry.,We're sorry.,Goodbye.,Hello.,Good morning.,"
    "Good evening.,One moment.,Welcome.,Congratulations.,Thanks for calling.,Please try your call later.,Yes.,No.,"
    "Of course.,Thank you for waiting.,Have a nice day.,Excuse me.,Sorry.,Please listen carefully.,Welcome back.,"
    "Thank you for your patience.,I did not understand.,That is right.,That is wrong.,Stay on the line.,Good night."
).split(",")
ALL_WORDS = sorted(
    {
        word
        for words in (ONES, TEENS, TENS, ORDINALS, BIG, DAYS, MONTHS, CODE_WORDS, KEYS, SYMBOLS, PEOPLE, THINGS,
                      ANIMALS, PLACES, TIMES, STATES, ADJECTIVES, VERBS, PAST)
        for phrase in words
        for word in phrase.split()
    }
    | set(
        "the a an and or but if when while then than that this these those there here what which who whose where how "
        "why with without for from of off on in into to by at about above before after during between because until "
        "is are was were be been being has have had do does did will would can could should may might must not no yes "
        "you your yours we our i my me he his she her they their them it its itself yourself themselves us am any "
        "some each every other another both either more most less least many much few very too also only just even "
        "still already yet ever never always often again once twice please sorry thank hour minute second hours "
        "minutes seconds dollars cents percent people person side way world end time day year night pm am o'clock "
        "otherwise however congratulations welcome afraid audible latency sense debugging located someone nobody "
        "something nothing everything lowercase uppercase niner letters digits normal default level unable accomplish "
        "touch using source linux operating visit release version exchange order forevermore torture menus "
        "telemarketers assisting answered compatible matches separated approximately information represents lasts "
        "overrides don't can't you're you've that's won't it's there's permission simultaneous limit reached passwords match meet minimum requirements personal own "
        "sip zap skinny jingle bluetooth usb mobile agent console local h m g c p".split()
    )
)


def number(rng: random.Random) -> str:
    """A spoken number, in words or (sometimes) in digits as people type them."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(ONES)
    if kind < 0.5:
        return str(rng.randrange(10))
    if kind < 0.6:
        return rng.choice(TEENS)
    if kind < 0.75:
        return rng.choice(TENS)
    if kind < 0.85:
        return f"{rng.choice(TENS)} {rng.choice(ONES[1:])}"
    if kind < 0.93:
        return " ".join(rng.choice(ONES) for _ in range(rng.randint(3, 7)))
    return f"{rng.choice(ONES[1:])} {rng.choice(BIG)} {rng.choice(['', 'and '])}{rng.choice(TENS)}"


def noun(rng: random.Random) -> str:
    article = rng.choice(["the", "the", "a", "your", "my", "this", "that", "our", "their", "his", "her", "another", "any"])
    thing = rng.choice(rng.choice([PEOPLE, THINGS, THINGS, THINGS, ANIMALS]))
    word = f"{rng.choice(ADJECTIVES)} {thing}" if rng.random() < 0.35 else thing
    if article == "a" and word[0] in "aeiou":
        article = "an"
    return f"{article} {word}"


def action(rng: random.Random) -> str:
    return f"{rng.choice(VERBS)} {noun(rng)}"


def press(rng: random.Random) -> str:
    key = rng.choice([*KEYS, *map(str, range(10))])
    verb = rng.choice(["press", "press", "press", "dial", "enter"])
    tail = rng.choice(["", "", " now", " followed by the pound key", " on your touch tone keypad", " again"])
    return f"{verb} {key}{tail}"


def example_sentences(downloads: Path) -> list[str]:
    """WordNet's example sentences of 2 to 16 plain words, in their order (WordNet 3.0, Princeton University; free for any use)."""
    wordnet, found = unpacked("wordnet-base", downloads) / "usr/share/wordnet", dict[str, None]()
    for part in ("adj", "adv", "noun", "verb"):
        for line in (wordnet / f"data.{part}").read_text(encoding="utf-8").splitlines():
            found.update(dict.fromkeys(re.findall(r'"([^"]+)"', line.partition(" | ")[2])))
    return [text for text in found if re.fullmatch(r"[A-Za-z][A-Za-z',.?! -]+", text) and 2 <= len(text.split()) <= 16]


def short(rng: random.Random, real: list[str]) -> str:
    """One to three words, or a short series: where letters meet sounds."""
    kind = rng.random()
    if kind < 0.55:
        words = re.findall(r"[A-Za-z']+", rng.choice(real))
        at = rng.randrange(len(words))
        return " ".join(words[at : at + rng.choice([1, 1, 2, 2, 3])])
    if kind < 0.62:
        return rng.choice(ALL_WORDS)
    if kind < 0.72:
        return series(rng)
    if kind < 0.80:
        return number(rng)
    if kind < 0.86:
        return rng.choice([rng.choice(LETTERS), rng.choice(CODE_WORDS), " ".join(rng.sample(LETTERS, 3))])
    if kind < 0.93:
        return rng.choice([*SYMBOLS, *ORDINALS, *MONTHS, *DAYS, *STATES])
    return rng.choice(COURTESY)


def clause(rng: random.Random) -> str:
    """What a telephone system says: four to about twelve words."""
    r = rng
    return r.choice([
        lambda: f"{press(r)} to {action(r)}",
        lambda: f"to {action(r)}, {press(r)}",
        lambda: f"{noun(r)} is {r.choice(STATES)}",
        lambda: f"{noun(r)} is {r.choice(['now', 'currently', 'still', 'already', 'not'])} {r.choice(STATES)}",
        lambda: f"{noun(r)} has been {r.choice(PAST)}",
        lambda: f"you have {r.choice(PAST)} {noun(r)}",
        lambda: f"you have {number(r)} {r.choice(STATES)} {r.choice(['messages', 'calls', 'letters', 'minutes'])}",
        lambda: f"please {action(r)} {r.choice(TIMES)}",
        lambda: f"please {action(r)}",
        lambda: f"if you want to {action(r)}, {press(r)}",
        lambda: f"I {r.choice(PAST)} {noun(r)} {r.choice(PLACES)}",
        lambda: f"{noun(r)} {r.choice(PAST)} {noun(r)} {r.choice(TIMES)}",
        lambda: f"there are currently {number(r)} {r.choice(PEOPLE)}s {r.choice(PLACES)}",
        lambda: f"it is {number(r)} o'clock on {r.choice(DAYS)} {r.choice(MONTHS)} {r.choice(ORDINALS)}",
        lambda: f"the number is {' '.join(r.choice(ONES) for _ in range(r.randint(3, 10)))}",
        lambda: f"I'm sorry, {noun(r)} is {r.choice(STATES)}",
        lambda: f"at the tone, please {action(r)}",
        lambda: f"where is {noun(r)} {r.choice(TIMES)}?",
        lambda: f"we could not {action(r)} because {noun(r)} was {r.choice(STATES)}",
        lambda: f"{r.choice(ADJECTIVES)} {r.choice(ADJECTIVES)} {r.choice(THINGS)} {r.choice(PLACES)}",
    ])()


def series(rng: random.Random) -> str:
    """Words that make no sentence, as a telephone reads codes and menus."""
    if rng.random() < 0.5:
        return f"{rng.choice(CODE_WORDS)} {rng.choice(CODE_WORDS)} {rng.choice(LETTERS)} {number(rng)}"
    return " ".join(rng.sample(ALL_WORDS, rng.randint(3, 6)))


def prompt(rng: random.Random) -> str:
    """One to three clauses."""
    parts = [clause(rng)]
    while rng.random() < 0.3 and len(parts) < 3:
        parts.append(rng.choice(["and ", "or ", "but ", "then ", ""]) + clause(rng))
    return ", ".join(parts)


def sentence(rng: random.Random, real: list[str]) -> str:
    text = prompt(rng) if rng.random() < 0.45 else rng.choice(real)
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else rng.choice([".", ".", ".", "!", ""]))


def passage(rng: random.Random, real: list[str], words: int) -> str:
    """Sentences joined until there are about `words` words (35 s of speech is about 90)."""
    text = rng.choice(COURTESY) if rng.random() < 0.3 else sentence(rng, real)
    while len(text.split()) < words:
        text += " " + (rng.choice(COURTESY) if rng.random() < 0.15 else sentence(rng, real))
    return text


def stream(seed: int, real: list[str]) -> Iterator[str]:
    """Endless different texts: a fifth short, most of them sentences, the rest passages of up to 35 s.

    `real` are sentences that are not made here.
    """
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        kind = rng.random()
        if kind < 0.20:
            text = short(rng, real)
        elif kind < 0.82:
            text = sentence(rng, real)
        else:
            text = passage(rng, real, rng.randint(15, 90) if kind > 0.98 else rng.randint(10, 26))
        if text.lower() not in seen or len(text.split()) < 2:  # single words may come again
            seen.add(text.lower())
            yield text
