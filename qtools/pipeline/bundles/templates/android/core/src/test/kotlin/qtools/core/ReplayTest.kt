package qtools.core

import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

class ReplayTest {
    private val contract = Contract.parse(File("../vision/src/main/assets/contract.json").readText())
    private val vectors = File("../vision/src/androidTest/assets/vectors")

    @Test
    fun everyTensorHasTheRecordedBytes() {
        val found = replay(contract, { File(vectors, it).readBytes() })
        assertTrue("there are no vectors", found.isNotEmpty())
        for (each in found) assertEquals(each.toString(), 0, each.differing)
    }

    @Test
    fun aTensorThatIsAnotherIsNoticed() {
        val found = replay(contract, { name ->
            File(vectors, name).readBytes().also { if (name.endsWith(".input.bin")) it[0] = (it[0] + 1).toByte() }
        })
        for (each in found) {
            assertEquals(1, each.differing)
            assertFalse(each.passed)
        }
    }
}
