"""What the words of a header say: contrast agent, part of the body, kernel.

Languages of sites that public data sets come from, with or without their accents, and
how their abbreviations are written; none of it needs to be complete, as images are
looked at where words do not decide (`told_by_vessels`).
"""

import re
import unicodedata

LETTERS = str.maketrans({"Ł": "L", "Ø": "OE", "Æ": "AE", "Đ": "D", "_": " "})

NO_AGENT = re.compile(
    r"[\W0]*(?: ?(?:ML|CC))?|N|OFF|NA|N/A|NIL|OHNE|NEIN|NIE|YOK|GEEN|NINGUNO|NENHUM|"
    r"NESSUNO|AUCUN|UNKNOWN|(?:NO|NON|NONE|NOT)(?: (?:GIVEN|USED|APPLIED|INJECTED|"
    r"ADMINISTERED|APPLICABLE|KNOWN|AGENT|CM|DYE))*|(?:NORMAL )?SALINE|NACL"
)
"""What stands for the name of an agent where none is told."""

CONTRAST = r"(?:[CK]ONTRAS|КОНТРАСТ)[A-ZА-Я]*"

BRAND = (
    r"\b(?:OMNIPAQ|ISOVUE|VISIPAQ|ULTRAVIST|OPTIRAY|XENETIX|IOMER|IOMEP|IOPAM|IOHEX|"
    r"IODIX|IOVER|IOPRO|IOBIT|IMERON|ACCUPAQ|SOLUTRAST|JOMERON|TELEBRIX|CONRAY|OXILAN)"
    r"[A-Z]*"
)
"""How contrast agents are sold, and what is in them."""

LYSIS = r"(?:[A-Z]?-?TPA|LYS[EI]|THROMBO|ALTEPLASE|TNK|TENECTEPLASE)"
"""What is given into a vein as well, and is no contrast agent."""

AGENT_NOUN = (
    rf"(?:{CONTRAST}|{BRAND}|[CK]ONTR\b|K\.?M\b|KL\b|K/?U\b|К/?У\b|CIV\b|CTE\b|"
    rf"PDC\b|M\.?D\.?C\b|I\.?V\b(?![. -]*{LYSIS})|[IY]OD[OAE]?\b|USILEN[A-Z]*|"
    r"УСИЛЕН[А-Я]*|VARJOAIN[A-Z]*|TEHOST[A-Z]*|CAN QUANG)"
)

INTO_A_VEIN = (
    r"(?:(?:[IE]\.V|SR)\b(?:\.?[ -]|\.)|[IE]V[ -]|\(I\.?V\.?\) |"
    r"(?:(?:INTRA|ENDO)[ -]?VE|DOZYLN|NITROZILN|ВНУТРИВЕН)[A-ZА-Я]*[ -]|В/В )"
)
"""Joined to an agent; of "i.v." and "sr." (Polish) the full stop ends no sentence."""

AGENT = (
    rf"(?:{INTO_A_VEIN}|[LD]'|"
    r"(?:THE|OR|ORAL|MEDIO|MEIO|MEZZO|PRODUIT|SRODKA?|DE|DI)[ -])*"
    rf"(?:{AGENT_NOUN}|CON(?:T?(?![A-Z])|[A-Z]{{0,2}}RA?S[A-Z]*)|INJ(?!UR)[A-Z]*|"
    r"INY[A-Z]*|INIEZ[A-Z]*|C\b(?!-)|ENHANC[A-Z]*)"
)
"""How a contrast agent, or the giving of it, is called."""

AND_WORD = r"(?:AND|THEN|UND|Y|E|ET|EN|I|VE|OG|OCH|И)"

AND = rf"(?: {AND_WORD} | ?[&+/,] ?)"

WITH = (
    r"\b(?:WITH|W/?|CON|COM|C/|AVEC|MIT|M\.|MET|MED|CU|DENGAN|SA|PO|POST?|NACH|"
    r"DOPO|APRES|APOS|EFTER|ETTER|POSLE|ПОСЛЕ)"
)

WITHOUT = (
    r"(?:WITHOUT|\bW/? ?O(?:UT)?|\bSINE?|\bSEM|\bSANS|\bSENZA|\bOHNE|\bBEZ|\bZONDER|"
    r"\bUTAN|\bUDEN|\bUTEN|\bILMAN|\bFARA|\bTANPA|\bБЕЗ)\b"
)
"""Says "without" also where what is missing is left unsaid."""

NO_ORAL = re.compile(
    rf"(?:\bNON?|\bNOT|{WITHOUT})[ -](?:ORAL(?:LY)?|PER OS|P\.?O)\b\.?"
    r"(?! ?(?:OR|NOR|AND|[&/+]))"
    r"(?: (?:[CK]ONTRAST|AGENT|[CK]M|DYE|MEDI(?:UM|A)|GIVEN|USED|ADMINISTERED)\b)*"
)
"""Says nothing of what was given into a vein."""

NOT = r"(?:NO[NT]?|NAO|NIET|NICHT|NIE|KEINE?|GEEN|IKKE|INGEN|KHONG|EI|НЕ)"

NOT_OR_BEFORE = (
    rf"\b(?:{NOT}|PRE|PRAE|PRIMA(?: DEL?)?|BEFORE|VOR|AVANT|ANTES(?: DEL?)?|PRZED|PRED|"
    r"VOOR|FOERE?|FORE|INNAN|FOR(?= K)|ENNEN|ДО)"
)

FOR = re.compile(r"(?<!\bHODE )(?<!\bHOVED )(?<!\bHJERNE )\bFOR (?:KONTRAS|KM\b)[A-Z]*")
"""Before K it is "for", or in Danish and Norwegian "before": it tells nothing, but
behind their words for the head."""

STUDY = (
    r"(?:(?:(?<![A-Z])|(?<=HEAD)|(?<=NECK))CT[APV](?![A-Z])|\bCTA(?=HEAD)|"
    r"ANGIO(?!O?E?DEM|M[AE]?S?\b|PATH|PLAST)[A-Z]*|АНГИО[А-Я]*)"
)
"""Names what an examination is for; it has series without contrast, too."""

GIVING = (
    r"(?:ADMIN|SOMMINISTR|APP?LI[CK]|INFU[SZ]|GABE|GEGE[BV]|VERABREICH|VERWEND|"
    r"PODA[NVW]|TOEDIEN|TOEGED|TILF(?:OE|O)R|INDGIV|GI(?:V|TT)|USE(?!F)|USO|USAGE|"
    r"UTILI[SZ]|BRUK|ANVAND|PEMBERIAN|WZMOCN|UZYCI|POUZIT|ADAS|"
    r"IN(?:J|Y|IEZ)[EA]?[CKZ]|ENHANC|ВВЕД|ПРИМЕН)[A-ZА-Я]*"
)
"""How words begin that say what is done with a contrast agent."""

OF = r"(?:OF|D[EIOU]L?|DELLA|VON|VAN|A[VF]|DE[RM]|THE)"

BETWEEN = (
    rf"(?:{INTO_A_VEIN}|[LD]'|(?:{GIVING}|{OF}|ANY|AUCUNE?|NINGUN[AO]?|ALCUN[AO]?|"
    r"NENHUMA?|EINE[RS]?|ORALE?|MEDIO|MEIO|MEZZO|PRODUIT|SRODK[A-Z]+|SUBSTAN[A-Z]+|"
    r"AGENTE?|MADDE[A-Z]*)[ -])"
)
"""All that may stand between "without" and the agent: other words, and a full stop,
begin to say something else."""

FAR_AGENT = (
    rf"(?:(?!{CONTRAST}(?<=ADA|ADO|ATA|ATO|TED|ERT|TLI)\b){AGENT_NOUN}|"
    r"IN(?:J|Y|IEZ)[A-Z]*ION[A-Z]*|ENHANCEMENT)(?! ?\+|[ -]*ENHANCED)"
)
"""An agent by a noun: what was done with it may say "with" behind other words."""

MORE_OF_IT = (
    rf"(?: {OF} {AGENT})?(?:(?:[ -](?:ORAL|NI|NOR|OR|OU?|VIA))*[ -]"
    r"(?:[IE]\.?V\b|(?:INTRA|ENDO)[ -]?VE[A-Z]*))?"
)
"""Goes on about the agent that is missing, and names no phase."""

WITHOUT_AGENT = (
    rf"(?:(?:{WITHOUT} ?|\b(?:NON?|PRE) - |(?:{NOT_OR_BEFORE}|\bO\.?)(?:\.|[ -]?))"
    rf"{AGENT}|"
    rf"(?:{WITHOUT} |{NOT_OR_BEFORE}[ -]){BETWEEN}{{1,6}}{FAR_AGENT}){MORE_OF_IT}"
)

TURKISH_WITHOUT = (
    rf"(?:{CONTRAST}|\b(?:IV)?KM)(?: ?MADDE[A-Z]*)?[ ']*"
    r"(?:SIZ\b|(?:(?:VERIL|EDIL)ME|(?:UYGULAN|KULLANIL)MA)(?:DEN|DAN|DI|KSIZIN)\b"
    r"(?! ?(?:ONCE[A-Z]* ?)?(?:VE\b|[/+&,-]))|"
    r"ONCE[A-Z]*\b(?! ?(?:VE|[/+&,-]) ?SONRA))"
)
"""The vowels tell what was not given ("verilmeden") from giving it ("verilmesi")."""

NOT_GIVEN = (
    rf"(?:{CONTRAST}|\b(?:IV)?KM|\bM\.?D\.?C)[ :=-]*"
    rf"(?:(?<=[ :=-]){NOT}\b(?= *(?:[^\w ]*$|[,;)/]|\d+(?:[.,]\d| ?MM)|{GIVING}|"
    r"NECE|NEED|REQ|INDI[CKZ]|NOTW|ERFORD))|(?:NONE|NEIN|YOK|FREI|FREE)\b)"
)
"""Any other word behind "not" tells what else is not: tilted, ionic, reacted to."""

SOME_ML = r"(?<![\d.,])[1-9]\d*(?:[.,]\d+)? ?(?:ML|CC)\b"
"""How much of an agent was given: it was, whatever "without" before it speaks of."""

WITHOUT_WORDS = re.compile(
    rf"(?!.*{SOME_ML})(?:"
    rf"UNENHANCED|UNCONTRASTED|TEHOSTAMAT|(?:TEHOSTE|VARJOAINEE?)TON|{TURKISH_WITHOUT}|"
    rf"{WITHOUT_AGENT}|{NOT_GIVEN}|{WITHOUT}(?={AND}| ?(?:[-(\d]|$))|"
    rf"(?:WITHOUT|\bSIN|\bSEM|\bSANS|\bOHNE|\bBE[SZ]){CONTRAST}|"
    rf"\b[SZ][ ./]+(?:CONTRAS[A-Z]*|CTE|CIV|M\.?D\.?C)\b|\bS/C\b|"
    r"\bU[ ./]+KONTRAS[A-Z]*|\bU/K\b|"
    r"KONTRAS[A-Z]*(?: (?:BE)?ADAS[A-Z]*)? NELKUL|ZOU?EI ?NASHI|造影(?:なし|無|前))"
)
"""Taken off before contrast is looked for: what is said may go on, "and with", or tell
how much was given."""

NOT_AFTER_WITH = "".join(
    rf"(?<!{word}{gap})"
    for word in ("WITH", r"\bW", r"\bW/", "POST", "MIT", "NACH", "CON", "COM", "AVEC")
    for gap in ("[ -]", " IV ")
) + (r"(?<!\bW/)(?<!\+)(?<!\+ )")
"""Before an agent whose dash is a sign (C-), no word says "with"."""

MINUS = (
    rf"{NOT_AFTER_WITH}\b(?:C|IV|KM)(?:"
    r"-(?![A-Z0-9]| (?:SPINE|ARM)\b| ?\d+ ?(?:ML|CC)\b)| -(?= ?(?:$|[()\[\]/])))"
)
"""A dash at an agent's letters says "without"; one after a space may part words."""

NATIVE = (
    r"(?:\bNATI+V|\bNAT\b|\bNATYW|НАТИВ|\bNCCT\b|\bNECT\b|\bT?NCT?\b|PLAIN|BLANCO\b|"
    r"SIMPLES?\b|\bBASALE\b|\bDIREC?T+[AO]\b|\b[SO][ .]?(?:MDC|KM)\b|TANJY?UN|"
    r"[単单]純|单纯|\bHI-?ZOU?EI|PING ?SAO|平[扫掃]|[非无無]造影|비조영|조영 ?전|"
    r"\bC ?\(-\)|\(-\) ?C\b|(?<![^ ])-C\b|"
    rf"{MINUS}|{NOT_AFTER_WITH}{CONTRAST} ?(?:\(-\)|-$))"
)

NATIVE_WORDS = re.compile(NATIVE)

BY_AGENT = (
    r"(?<!CONVERTED )(?<!EDGE )(?<!EDGE-)ENHANCED"
    r"(?! (?:CONVER|DICOM|MULTI-?FRAME|MF\b|SOP\b|IOD\b|CT IMAGE))"
)
"""Kernels enhance edges, and DICOM calls multi-frame files enhanced, as do programs
that convert to them."""

ENHANCED = (
    rf"(?:{STUDY}|\bCE[ -]?CT\b|{CONTRAST}|{BRAND}|{WITH}[ .]?{AGENT}|"
    rf"\b[SZС][ .]{AGENT}|"
    r"\bKONTR\b|\b(?:C|IV|KM) ?\(?\+|\(\+\) ?C\b|(?<![^ ])\+ ?C\b|"
    r"POST.?C(?:M|E|TR|NT)?\b|"
    rf"{BY_AGENT}|TEHOST|VEI?N(?:OE?U?S|EUX)|"
    r"ARTERI|SPATPHASE|(?<!SU)(?<!HY)PERF(?!O|E|I)|BOLUS|\bMIP\b|"
    r"\b(?:IV)?KM\b(?! -|-(?![A-Z]))|\bM\.?D\.?C\b|\bCIV\b|"
    r"\b[CM](?:MDC|KM)\b|IN[IJY]E[CKZ]|\bC/C\b|\bTSA\b|VARJOAIN|CAN QUANG|ZENG ?QIANG|"
    r"增[强強]|ZOU?EI|造影|조영)"
)

CONTRAST_WORDS = re.compile(ENHANCED)

STUDY_WORDS = re.compile(STUDY)

AFTER = (
    r"(?:AFTER(?:WARDS)?|PO(?:TEM)?|NACH(?:HER)?|DANACH|DOPO|APRES|APOS|DEPOIS|DESPUES|"
    r"DUPA|EFTER|ETTER|POSLE|ПОСЛЕ)"
)

BOTH_WORDS = re.compile(
    r"W/ ?WO\b|W/?O ?(AND|&) ?W\b|\bW ?(AND|&) ?W/?O|\b[CS]/[CS]\.? ?CONTRAS|"
    rf"{WITH}(?:{AND}| ){WITHOUT}|"
    rf"{WITHOUT} (?:AND|UND|Y|E|ET|EN|OG|OCH|&) "
    rf"(?:WITH|MIT|CON|COM|AVEC|MED|MET)(?: ?{AGENT}|$)|"
    rf"{WITHOUT_AGENT}(?: [A-Z]+)?? (?:{AND_WORD}|A|А|SI|PUIS|POI|DANN|LUEGO) "
    rf"(?:(?:WITH|MIT|CON|COM|AVEC|MED|MET|POST)$|{AFTER}\b"
    rf"(?! (?:I\.?V\.? )?(?:{LYSIS}|OP|SURG|CRANI|KRANI)))|"
    rf"(?:\b(?:N[CE]CT|T?NCT?)|{MINUS}) {STUDY}|"
    rf"{NATIVE}[A-Z]*{AND}(?:[A-Z]+ )?{ENHANCED}|{ENHANCED}[A-Z]*{AND}{NATIVE}|"
    rf"{MINUS} (?:C|IV|KM) ?\(?\+|{MINUS}.*{BRAND}|{BRAND}.*{MINUS}"
)

HEAD_WORDS = re.compile(
    r"HEAD|BRAIN|SKULL|CRAN[EI]|KRANI|CEREB|CERVEAU|CERVELL|NEURO|STROKE|ICTUS|\bAVC\b|"
    r"KOPF|SCHA?E?DEL|HIRN|\bN?CCT\b|TETE\b|EN[CK]E[FP]H?AL|CABE[ZC]A|\bTESTA\b|\bCAPO\b|"
    r"\bGLOW[AY]|\bMOZ[GK]|CZASZK|KAFA|BEYIN|HOOFD|HERSEN|HUVUD|HJARN|HJERN|\bHODE|"
    r"HOVED|SKALLE|GOLOV|CHEREP|\bHLAV|LEBK[AY]|KOPONY|\bAGY\b|CREIER|KEPALA|\bOTAK|"
    r"\bAIVO|KEFAL|TOU?BU\b|TOU ?LU|TOU ?NAO|LU ?NAO|[头頭脑脳腦颅]|"
    r"두부|뇌|ГОЛОВ|МОЗГ|ЧЕРЕП"
)

OTHER_WORDS = re.compile(
    r"NECK|SPINE|CHEST|THORA|TORA[XCK]|LUNG|ABDOM|PEL[VW]I|HEART|[CK]ARDI|[CK]AROTI|"
    r"HALS|KNEE|KNIE|SHOULDER|SCHULTER|CUELLO|PESCOCO|COLLO\b|\bCOU\b|\bNEK\b|COLUMNA|"
    r"COLUNA|COLONNA|RACHIS|WIRBEL|WERVEL|CERVICA|LUMBA|LOMBA|BRUST|BORST|BAUCH|BUIK|"
    r"BECKEN|KLATK|BRZUCH|SZYJ|MIEDNIC|KREGOS|GOGUS|BATIN|BOYUN|OMURGA|GRUDN|BRYUSH|"
    r"POZVON|KYOUBU|KYOBU|FUKUBU|KEIBU|XIONG|FU ?BU\b|[颈頸頚胸腹肺脊]|"
    r"ШЕЯ|ШЕИ|ГРУД|БРЮШ"
)

BONE_WORDS = re.compile(
    r"BONE|KNOCHEN|LUNG|EDGE|SHARP|PETROUS|INNER.?EAR|HUESO|OSEO|OSEA\b|OSSE|\bOSS[OA]\b|"
    r"\bOS\b|\bKOSC|KOSTN|KEMIK|\bBOT\b|FELSENB|ROCHER|骨|КОСТ"
)

SHARPEST_SOFT_KERNEL = 49
"""Siemens's kernels H10 to H49, J30 to J49 and so on show soft tissue."""

SHARP_CANON_KERNELS = (range(30, 40), range(50, 60), range(80, 90))
"""FC30 to FC39 bone, FC50 to FC59 lung, FC80 to FC89 high resolution."""


def plain(text: str) -> str:
    """Upper case without accents, single spaces; what scanners write varies in all."""
    apart = unicodedata.normalize("NFKD", text.upper().translate(LETTERS))
    bare = "".join(one for one in apart if unicodedata.category(one) != "Mn")
    return " ".join(unicodedata.normalize("NFC", bare).translate(LETTERS).split())


def has_contrast(agent: str, *texts: str) -> bool | None:
    """Whether a contrast agent was given, by its name or the first text that tells.

    A name that says there was no contrast ("NO CONTRAST", "without") comes behind the
    first text, which describes the series itself, and before the others, which name the
    whole examination. What merely stands for a name (`NO_AGENT`: "NONE", "NO", "-")
    tells nothing, as many headers hold it whatever was given. None: no word tells.
    """
    names = " ".join(
        name
        for one in plain(agent).split("\\")
        if not NO_AGENT.fullmatch(name := NO_ORAL.sub(" ", one).strip())
    )
    named = _speaks_of_contrast(names)
    if names and named is not False:
        return True
    told = [_speaks_of_contrast(plain(text)) for text in texts]
    ordered = (*told[:1], named, *told[1:])
    return next((one for one in ordered if one is not None), None)


def _speaks_of_contrast(text: str) -> bool | None:
    """Whether a plain text says with or without contrast; None: it says nothing."""
    if BOTH_WORDS.search(text):
        return True
    if NATIVE_WORDS.search(text):
        return False
    rest, times = WITHOUT_WORDS.subn(" ", FOR.sub(" ", text))
    without = times > 0
    if CONTRAST_WORDS.search(STUDY_WORDS.sub(" ", rest) if without else rest):
        return True
    return False if without else None


def is_head(*texts: str) -> bool | None:
    """Whether it is a head by the first text that tells; None if none does."""
    for text in map(plain, texts):
        if HEAD_WORDS.search(text):
            return True
        if OTHER_WORDS.search(text):
            return False
    return None


def is_sharp(kernel: str, description: str) -> bool:
    """Whether a reconstruction is made for bone or lung, by its kernel or its name."""
    kernel = kernel.upper()
    if BONE_WORDS.search(kernel):
        return True
    if canon := re.match(r"FC(\d\d)", kernel):
        return any(int(canon[1]) in sharp for sharp in SHARP_CANON_KERNELS)
    if siemens := re.match(r"[A-Z]{1,2}(\d\d)", kernel):
        return int(siemens[1]) > SHARPEST_SOFT_KERNEL
    return kernel in {"D", "E", "L", "YB", "YC", "YD"} or bool(
        BONE_WORDS.search(plain(description))
    )
