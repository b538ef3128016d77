package qtools.core

/**
 * Reads JSON into maps, lists, strings, doubles, booleans and null; the contract needs no more.
 *
 * @throws IllegalArgumentException if the text is no JSON.
 */
fun parseJson(text: String): Any? = JsonReader(text).whole()

private class JsonReader(private val text: String) {
    private var at = 0

    fun whole(): Any? {
        val found = value()
        blank()
        require(at == text.length) { "text behind the JSON at $at" }
        return found
    }

    private fun value(): Any? {
        blank()
        return when (peek()) {
            '{' -> entries()
            '[' -> items()
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun entries(): Map<String, Any?> {
        val found = LinkedHashMap<String, Any?>()
        each('{', '}') {
            blank()
            val name = string()
            blank()
            take(':')
            found[name] = value()
        }
        return found
    }

    private fun items(): List<Any?> {
        val found = ArrayList<Any?>()
        each('[', ']') { found.add(value()) }
        return found
    }

    private fun each(open: Char, close: Char, read: () -> Unit) {
        take(open)
        blank()
        if (peek() == close) {
            at += 1
            return
        }
        while (true) {
            read()
            blank()
            if (peek() == close) break
            take(',')
        }
        at += 1
    }

    private fun string(): String {
        take('"')
        val found = StringBuilder()
        while (peek() != '"') {
            val char = text[at++]
            require(char >= ' ') { "a control character in the string before $at" }
            found.append(if (char == '\\') escaped() else char)
        }
        at += 1
        return found.toString()
    }

    private fun escaped(): Char {
        val char = peek()
        at += 1
        return when (char) {
            '"', '\\', '/' -> char
            'b' -> '\b'
            'f' -> '\u000c'
            'n' -> '\n'
            'r' -> '\r'
            't' -> '\t'
            'u' -> unit()
            else -> throw IllegalArgumentException("\\$char is no escape, before $at")
        }
    }

    private fun unit(): Char {
        val digits = text.substring(at, minOf(at + 4, text.length))
        require(digits.length == 4 && digits.all { it in "0123456789abcdefABCDEF" }) { "no four digits at $at" }
        at += 4
        return digits.toInt(16).toChar()
    }

    private fun number(): Double {
        val found = NUMBER.find(text, at)
        require(found != null && found.range.first == at) { "no value at $at" }
        at = found.range.last + 1
        return found.value.toDouble()
    }

    private fun word(word: String, means: Any?): Any? {
        require(text.startsWith(word, at)) { "no value at $at" }
        at += word.length
        return means
    }

    private fun blank() {
        while (at < text.length && text[at] in " \t\r\n") at += 1
    }

    private fun peek(): Char {
        require(at < text.length) { "the JSON ends early" }
        return text[at]
    }

    private fun take(char: Char) {
        require(peek() == char) { "no $char at $at" }
        at += 1
    }

    private companion object {
        val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][-+]?[0-9]+)?")
    }
}
