// Runs a bundle's core over the cases that test_android.py lays down in a folder, and leaves what came of them.
import java.io.File
import qtools.core.Box
import qtools.core.Contract
import qtools.core.Picture
import qtools.core.detect
import qtools.core.parseJson
import qtools.core.prepare
import qtools.core.realNumbers
import qtools.core.replay
import qtools.core.top
import qtools.core.uncut

/** Bits of a value, so that no printing of a float stands between two languages. */
fun bits(value: Any?): String = when (value) {
    is Map<*, *> -> value.entries.joinToString(",", "{", "}") { bits(it.key) + ":" + bits(it.value) }
    is List<*> -> value.joinToString(",", "[", "]") { bits(it) }
    is String -> value.map { "%04x".format(it.code) }.joinToString("", "<", ">")
    is Double -> "%016x".format(value.toRawBits())
    else -> value.toString()
}

fun sides(box: Box): String = listOf(box.left, box.top, box.right, box.bottom).joinToString(" ")

fun main(arguments: Array<String>) {
    val folder = File(arguments[0])
    val contract = Contract.parse(File(arguments[1]).readText())
    val recorded = { name: String -> File(arguments[2], name).readBytes() }
    for (off in 0..2) { // a network that is right on the first vector and wrong by so many codes on all others
        var at = 0
        val found = replay(contract, recorded) { _ ->
            val bytes = recorded("${at}.output.bin").also { if (at++ > 0) it[0] = (it[0] + off).toByte() }
            mapOf(contract.output.name to bytes)
        }
        File(folder, "off$off").writeText(found.joinToString(" ") { "${it.gaps?.single()}:${it.passed}" })
    }
    fun named(end: String) = folder.listFiles()!!.filter { it.name.endsWith(end) }
    val (left, top, right, bottom) = File(folder, "box").readText().split(" ").map { it.toDouble() }
    val views = File(folder, "views").readLines().map { line -> line.split(" ").map { it.toInt() } }
    File(folder, "seen").writeText(views.joinToString("\n") { each ->
        val (x, y) = each.subList(1, 5).map { it / 30.0 } to each.subList(5, 9).map { it / 20.0 }
        val (box, shown) = Box(x[1], y[1], x[2], y[2]) to Box(x[0], y[0], x[3], y[3])
        sides(box.turned(each[0]).within(shown.turned(each[0])))
    })
    for (file in named(".rgb")) {
        val number = file.name.substringBefore('.')
        val (height, width) = File(folder, "$number.sides").readText().split(" ").map { it.toInt() }
        val contract = Contract.parse(File(folder, "$number.contract").readText())
        File(folder, "$number.out").writeBytes(prepare(Picture(width, height, file.readBytes()), contract))
        val whole = uncut(Box(left, top, right, bottom), height, width, contract.preparation)
        File(folder, "$number.uncut").writeText(sides(whole))
    }
    for (file in named(".codes")) {
        val number = file.name.substringBefore('.')
        val contract = Contract.parse(File(folder, "$number.meaning").readText())
        val numbers = realNumbers(file.readBytes(), contract.output)
        val top = top(numbers, contract, 3).joinToString(" ") { "${it.index}:${it.label}:${it.probability}" }
        File(folder, "$number.top").writeText(numbers.joinToString(" ") { "%08x".format(it.toRawBits()) } + "\n" + top)
    }
    for (file in named(".logits")) {
        val number = file.name.substringBefore('.')
        val said = Contract.parse(File(folder, "$number.detector").readText())
        val boxes = realNumbers(File(folder, "$number.boxes").readBytes(), checkNotNull(said.boxes))
        val found = detect(realNumbers(file.readBytes(), said.output), boxes, said).map {
            listOf(it.index, it.label, it.score, it.box.left, it.box.top, it.box.right, it.box.bottom)
        }
        File(folder, "$number.found").writeText(found.joinToString("\n") { it.joinToString(" ") })
    }
    for (file in named(".wrong")) {
        val said = try {
            Contract.parse(file.readText()).toString()
        } catch (error: IllegalArgumentException) {
            checkNotNull(error.message)
        }
        File(folder, file.name + ".said").writeText(said)
    }
    for (file in named(".json")) {
        val read = try { bits(parseJson(file.readText())) } catch (error: IllegalArgumentException) { "refused" }
        File(folder, file.name + ".bits").writeText(read)
    }
    val argb = File(folder, "argb").readText().split(" ").map { it.toLong().toInt() }.toIntArray()
    for (quarters in -1..4) {
        val turned = Picture.ofArgb(argb, 5, 3).turned(90 * quarters)
        val sides = byteArrayOf(turned.height.toByte(), turned.width.toByte())
        File(folder, "turned$quarters").writeBytes(sides + turned.rgb)
    }
}
